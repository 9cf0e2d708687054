"""DUPR, ResNet-50, ImageNet-1k, 800 epochs."""

from .imagenet_r50_200ep import dataloader, lr_multiplier, model, optimizer, train

train.max_iter = "800 epochs"
train.output_dir = "output/pretrain/dupr_imagenet_r50_800ep"
