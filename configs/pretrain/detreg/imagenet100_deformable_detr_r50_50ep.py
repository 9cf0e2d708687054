"""DETReg on a tenth of ImageNet's classes, 50 epochs, as the tables of its paper."""

from ...common.schedule import multistep
from .imagenet_deformable_detr_r50_5ep import dataloader, model, optimizer, train

dataloader.train.dataset.names = "imagenet100_train"
dataloader.train.mapper.source.path = "output/priors/imagenet100_train_selective_search"

lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.output_dir = "output/pretrain/detreg_imagenet100_deformable_detr_r50_50ep"
