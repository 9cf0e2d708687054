"""As deformable_detr_r50_1pct.py, 10 % of the labels and 400 epochs."""

from .deformable_detr_r50_1pct import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.subset = "10%"

train.max_iter = "400 epochs"
train.eval_period = "20 epochs"
train.output_dir = "output/finetune/deformable_detr_r50_10pct"
