"""As deformable_detr_r50_50ep.py, with the coarsest map alone."""

from ...common.models.deformable_detr_single_scale import model
from .deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/finetune/deformable_detr_r50_single_scale_50ep"
