"""As deformable_detr_r50_50ep.py, with refinement and queries from the encoder's proposals."""

from ...common.models.deformable_detr_two_stage import model
from .deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/finetune/deformable_detr_r50_two_stage_50ep"
