"""As deformable_detr_r50_1pct.py, 5 % of the labels and 500 epochs."""

from .deformable_detr_r50_1pct import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.subset = "5%"

train.max_iter = "500 epochs"
train.eval_period = "25 epochs"
train.output_dir = "output/finetune/deformable_detr_r50_5pct"
