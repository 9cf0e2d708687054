# DUPR on the embedded images, without labels. Others: dataloader.train.dataset.names=...
from ..common.data.paired_views import dataloader
from ..common.optim import SGD as optimizer
from ..common.schedule import cosine
from ..common.train import train
from .models import dupr as model

dataloader.train.dataset.names = "toy_unlabeled"
dataloader.train.mapper.size = 96
dataloader.train.total_batch_size = 64
dataloader.train.num_workers = 2

optimizer.lr = 0.06
lr_multiplier = cosine()

train.output_dir = "output/quickstart/pretrain_dupr"
train.max_iter = 600
train.checkpointer.period = 200
train.log_period = 20
train.channels_last = True
