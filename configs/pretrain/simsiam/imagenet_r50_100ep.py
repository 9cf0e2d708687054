"""SimSiam on ImageNet, ResNet-50, 100 epochs (arXiv:2011.10566): batch 512, cosine, and a predictor
whose rate does not decay."""

from ...common.data.paired_views import dataloader
from ...common.models.simsiam import model
from ...common.optim import SGD as optimizer
from ...common.schedule import cosine
from ...common.train import train

dataloader.train.total_batch_size = 512

optimizer.lr = 0.1  # 0.05 * 512 / 256
optimizer.params.rules = [dict(match="predictor", fixed_lr=True)]
lr_multiplier = cosine()

train.max_iter = "100 epochs"
train.sync_bn = True
train.checkpointer.period = "5 epochs"
train.output_dir = "output/pretrain/simsiam_imagenet_r50_100ep"
