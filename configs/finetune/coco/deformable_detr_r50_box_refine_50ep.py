"""As deformable_detr_r50_50ep.py, with boxes that every layer refines."""

from ...common.models.deformable_detr_refine import model
from .deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/finetune/deformable_detr_r50_box_refine_50ep"
