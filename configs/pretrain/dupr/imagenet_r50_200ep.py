"""DUPR on ImageNet, ResNet-50, 200 epochs (arXiv:2103.04814): batch 256, rate 0.06, cosine.

The paper's ablations (its tables 1 and 2) used rate 0.03; docs/methods/dupr.md has each row as an
override of this file.
"""

from ...common.data.paired_views import dataloader
from ...common.models.dupr import model
from ...common.optim import SGD as optimizer
from ...common.schedule import cosine
from ...common.train import train

dataloader.train.total_batch_size = 256

optimizer.lr = 0.06
lr_multiplier = cosine()

train.max_iter = "200 epochs"
train.checkpointer.period = "5 epochs"
train.output_dir = "output/pretrain/dupr_imagenet_r50_200ep"
