"""Siamese DETR's COCO recipe with weights 0 (global) and 3 (region); 0.3 and 3 are its own."""

from ..coco_conditional_detr_r50_120k import dataloader, lr_multiplier, model, optimizer, train

model.global_weight = 0.0
model.feature_weight = 3.0

train.output_dir = "output/pretrain/siamese_detr_coco_global0_region3"
