# DUPR on the embedded images, without labels. Others: dataloader.train.dataset.names=...
from .models import dupr as model
from .pretrain_moco import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/quickstart/pretrain_dupr"
