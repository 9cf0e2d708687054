"""As deformable_detr_r50_1pct.py, 2 % of the labels and 1000 epochs."""

from .deformable_detr_r50_1pct import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.subset = "2%"

train.max_iter = "1000 epochs"
train.eval_period = "50 epochs"
train.output_dir = "output/finetune/deformable_detr_r50_2pct"
