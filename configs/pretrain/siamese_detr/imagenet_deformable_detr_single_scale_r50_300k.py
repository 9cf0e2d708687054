"""Siamese DETR on ImageNet: Deformable DETR, one level, 300 queries."""

from ...common.models.deformable_detr_single_scale import model
from ...common.models.siamese_detr import siamese_detr
from .imagenet_detr_r50_300k import dataloader, lr_multiplier, optimizer, train

model = siamese_detr(model, global_weight=10.0, region_weight=3.0)

train.output_dir = "output/pretrain/siamese_detr_imagenet_deformable_detr_single_scale_r50_300k"
