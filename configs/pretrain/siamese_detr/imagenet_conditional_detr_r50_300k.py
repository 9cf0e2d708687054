"""Siamese DETR on ImageNet: Conditional DETR, 100 queries (300 too)."""

from ...common.models.conditional_detr import model
from ...common.models.siamese_detr import siamese_detr
from .imagenet_detr_r50_300k import dataloader, lr_multiplier, optimizer, train

model.query_source.num_queries = 100
model = siamese_detr(model, global_weight=10.0, region_weight=5.0)

train.output_dir = "output/pretrain/siamese_detr_imagenet_conditional_detr_r50_300k"
