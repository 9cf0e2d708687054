"""As dn_dab_deformable_detr_r50_50ep.py, 12 epochs.

Its authors drop the rate by hand; the drop at 10 is that of DETA's 12 epochs.
"""

from ...common.schedule import multistep
from .dn_dab_deformable_detr_r50_50ep import dataloader, model, optimizer, train

lr_multiplier = multistep([10], total=12)

train.max_iter = "12 epochs"
train.eval_period = "1 epochs"
train.output_dir = "output/finetune/dn_dab_deformable_detr_r50_12ep"
