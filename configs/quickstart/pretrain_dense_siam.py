# DenseSiam on the embedded images, without labels. Others: dataloader.train.dataset.names=...
from .models import dense_siam as model
from .pretrain_simsiam import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/quickstart/pretrain_dense_siam"
