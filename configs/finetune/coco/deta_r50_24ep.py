"""As deta_r50_12ep.py, 24 epochs; longer did not help its authors."""

from ...common.schedule import multistep
from .deta_r50_12ep import dataloader, model, optimizer, train

lr_multiplier = multistep([20], total=24)

train.max_iter = "24 epochs"
train.output_dir = "output/finetune/deta_r50_24ep"
