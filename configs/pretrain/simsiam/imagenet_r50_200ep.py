"""SimSiam, ResNet-50, ImageNet-1k, 200 epochs: DenseSiam's baseline at equal length."""

from .imagenet_r50_100ep import dataloader, lr_multiplier, model, optimizer, train

train.max_iter = "200 epochs"
train.output_dir = "output/pretrain/simsiam_imagenet_r50_200ep"
