"""Siamese DETR on ImageNet-100, 50 epochs as DETReg; no paper has this row."""

from ...common.schedule import multistep
from .imagenet_conditional_detr_r50_300k import dataloader, model, optimizer, train

dataloader.train.dataset.names = "imagenet100_train"
dataloader.train.mapper.source.path = "output/priors/imagenet100_train_edge_boxes"

lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.output_dir = "output/pretrain/siamese_detr_imagenet100_conditional_detr_r50_50ep"
