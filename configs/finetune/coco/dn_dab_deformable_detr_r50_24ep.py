"""As dn_dab_deformable_detr_r50_50ep.py, 24 epochs; the drop at 20 is that of DETA's 24 epochs."""

from ...common.schedule import multistep
from .dn_dab_deformable_detr_r50_50ep import dataloader, model, optimizer, train

lr_multiplier = multistep([20], total=24)

train.max_iter = "24 epochs"
train.eval_period = "2 epochs"
train.output_dir = "output/finetune/dn_dab_deformable_detr_r50_24ep"
