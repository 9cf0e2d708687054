"""As detr_r50_300ep.py, 50 epochs: the baseline of the detectors that need no more."""

from ...common.schedule import multistep
from .detr_r50_300ep import dataloader, model, optimizer, train

lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.eval_period = "5 epochs"
train.output_dir = "output/finetune/detr_r50_50ep"
