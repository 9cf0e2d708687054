"""Conditional DETR on VOC 2012 as Siamese DETR finetunes (arXiv:2303.18144).

100 queries and half the rate on the backbone; the recipes of 10, 30, 50 and 70 % begin here.
"""

from .conditional_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "voc_2012_trainval"

model.query_source.num_queries = 100

optimizer.params.rules[0].lr_factor = 0.5

train.output_dir = "output/finetune/voc_conditional_detr_r50_100q_50ep"
