"""Conditional DETR on 10 % of VOC 2012: data efficiency as in Siamese DETR (arXiv:2303.18144).

Which images is a function of the seed alone, and other seeds are other images:
dataloader.train.dataset.subset=10%@seed1
"""

from .conditional_detr_r50_100q_50ep import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.subset = "10%"

train.checkpointer.period = "10 epochs"
train.output_dir = "output/finetune/voc_conditional_detr_r50_10pct"
