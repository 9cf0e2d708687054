"""As deta_r50_hungarian_50ep.py at DETA's own 12 epochs."""

from .deta_r50_12ep import lr_multiplier
from .deta_r50_hungarian_50ep import dataloader, model, optimizer, train

train.max_iter = "12 epochs"
train.eval_period = "1 epochs"
train.output_dir = "output/finetune/deta_r50_hungarian_12ep"
