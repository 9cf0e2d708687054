"""As conditional_detr_r50_10pct.py, 30 % of VOC 2012."""

from .conditional_detr_r50_10pct import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.subset = "30%"

train.output_dir = "output/finetune/voc_conditional_detr_r50_30pct"
