"""Conditional DETR on 10 % of VOC 2012: data efficiency as in Siamese DETR (arXiv:2303.18144).

100 queries and half the rate on the backbone, as its finetuning. Which images is a function of
the seed alone, and other seeds are other images: dataloader.train.dataset.subset=10%@seed1
"""

from .conditional_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "voc_2012_trainval"
dataloader.train.dataset.subset = "10%"

model.query_source.num_queries = 100

optimizer.params.rules[0].lr_factor = 0.5

train.output_dir = "output/finetune/voc_conditional_detr_r50_10pct"
