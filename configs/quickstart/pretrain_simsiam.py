# SimSiam on the embedded images, without labels. Others: dataloader.train.dataset.names=...
from .models import simsiam as model
from .pretrain_moco import dataloader, lr_multiplier, optimizer, train

# The papers' 0.05 * batch / 256 = 0.0125 hardly moves in a few hundred steps.
optimizer.lr = 0.05
optimizer.params.rules = [dict(match=r"predictor", fixed_lr=True)]

train.output_dir = "output/quickstart/pretrain_simsiam"
