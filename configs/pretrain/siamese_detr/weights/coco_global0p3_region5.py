"""Siamese DETR's COCO recipe with weights 0.3 (global) and 5 (region); 0.3 and 3 are its own."""

from ..coco_conditional_detr_r50_120k import dataloader, lr_multiplier, model, optimizer, train

model.global_weight = 0.3
model.feature_weight = 5.0

train.output_dir = "output/pretrain/siamese_detr_coco_global0p3_region5"
