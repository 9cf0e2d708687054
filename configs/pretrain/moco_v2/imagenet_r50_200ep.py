"""MoCo v2 on ImageNet, ResNet-50, 200 epochs (arXiv:2003.04297): batch 256, rate 0.03, cosine."""

from ...common.data.paired_views import dataloader
from ...common.models.moco_v2 import model
from ...common.optim import SGD as optimizer
from ...common.schedule import cosine
from ...common.train import train

dataloader.train.total_batch_size = 256

optimizer.lr = 0.03  # doubles with the batch
lr_multiplier = cosine()

train.max_iter = "200 epochs"
train.checkpointer.period = "5 epochs"
train.output_dir = "output/pretrain/moco_v2_imagenet_r50_200ep"
