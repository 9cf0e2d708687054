"""As conditional_detr_r50_50ep.py, as Siamese DETR finetunes: 100 queries, backbone at 5e-5."""

from .conditional_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.query_source.num_queries = 100

optimizer.params.rules[0].lr_factor = 0.5

train.output_dir = "output/finetune/conditional_detr_r50_100q_50ep"
