"""As detr_r50_300ep.py, half as long: the short schedule of its README, and of UP-DETR."""

from ...common.schedule import multistep
from .detr_r50_300ep import dataloader, model, optimizer, train

lr_multiplier = multistep([100], total=150)

train.max_iter = "150 epochs"
train.output_dir = "output/finetune/detr_r50_150ep"
