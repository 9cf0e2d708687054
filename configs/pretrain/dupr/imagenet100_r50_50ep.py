"""DUPR on ImageNet-100, 50 epochs as the box pretexts; no paper has this row."""

from .imagenet_r50_200ep import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "imagenet100_train"

train.max_iter = "50 epochs"
train.output_dir = "output/pretrain/dupr_imagenet100_r50_50ep"
