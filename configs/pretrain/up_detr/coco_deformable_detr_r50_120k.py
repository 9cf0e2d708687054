"""As coco_conditional_detr_r50_120k.py, Deformable DETR; no paper has this row."""

from ...common.models.deformable_detr import model
from ...common.models.up_detr import up_detr
from .coco_conditional_detr_r50_120k import dataloader, lr_multiplier, optimizer, train

model = up_detr(model)

train.output_dir = "output/pretrain/up_detr_coco_deformable_detr_r50_120k"
