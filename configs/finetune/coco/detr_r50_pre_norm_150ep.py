"""As detr_r50_pre_norm_300ep.py, half as long."""

from .detr_r50_150ep import lr_multiplier
from .detr_r50_pre_norm_300ep import dataloader, model, optimizer, train

train.max_iter = "150 epochs"
train.output_dir = "output/finetune/detr_r50_pre_norm_150ep"
