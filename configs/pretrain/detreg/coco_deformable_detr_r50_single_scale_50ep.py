"""As coco_deformable_detr_r50_50ep.py, the coarsest map alone: a row of JoinDet's ablations."""

from ...common.models.deformable_detr_single_scale import model
from ...common.models.detreg import detreg
from .coco_deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

model = detreg(model)

train.output_dir = "output/pretrain/detreg_coco_deformable_detr_r50_single_scale_50ep"
