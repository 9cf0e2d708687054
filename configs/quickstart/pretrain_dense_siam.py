# DenseSiam on the embedded images, without labels. Others: dataloader.train.dataset.names=...
from ..common.data.paired_views import dataloader
from ..common.optim import SGD as optimizer
from ..common.schedule import cosine
from ..common.train import train
from .models import dense_siam as model

dataloader.train.dataset.names = "toy_unlabeled"
dataloader.train.mapper.size = 96
dataloader.train.total_batch_size = 64
dataloader.train.num_workers = 2

# The papers' 0.05 * batch / 256 = 0.0125 hardly moves in a few hundred steps.
optimizer.lr = 0.05
optimizer.params.rules = [dict(match=r"predictor", fixed_lr=True)]
lr_multiplier = cosine()

train.output_dir = "output/quickstart/pretrain_dense_siam"
train.max_iter = 600
train.checkpointer.period = 200
train.log_period = 20
train.channels_last = True
