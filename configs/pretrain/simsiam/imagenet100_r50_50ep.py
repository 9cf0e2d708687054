"""SimSiam on ImageNet-100, 50 epochs as the box pretexts; no paper has this row."""

from .imagenet_r50_100ep import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "imagenet100_train"

train.max_iter = "50 epochs"
train.output_dir = "output/pretrain/simsiam_imagenet100_r50_50ep"
