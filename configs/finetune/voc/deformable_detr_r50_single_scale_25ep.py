"""As deformable_detr_r50_single_scale_10ep.py, 25 epochs."""

from .deformable_detr_r50_single_scale_10ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

train.max_iter = "25 epochs"
train.output_dir = "output/finetune/voc_deformable_detr_r50_single_scale_25ep"
