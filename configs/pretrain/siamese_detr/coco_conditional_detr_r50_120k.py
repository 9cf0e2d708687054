"""Siamese DETR on COCO train2017 without its labels, 120,000 steps of 64: Conditional DETR."""

from ...common.data.proposals import proposals
from ...common.schedule import multistep
from .imagenet_conditional_detr_r50_300k import dataloader, model, optimizer, train

dataloader.train.dataset.names = "coco_2017_train_unlabeled"
dataloader.train.mapper.source.path = "output/priors/coco_2017_train_edge_boxes"
dataloader.train.mapper.short_edges = list(range(480, 800 + 1, 32))
dataloader.train.mapper.max_size = 1333
dataloader.train.total_batch_size = 64  # 16 x 4
dataloader.update(proposals("coco_2017_val"))

model.global_weight = 0.3
model.feature_weight = 3.0

lr_multiplier = multistep([80_000], total=120_000)  # epochs 43 and 65

train.max_iter = 120_000
train.eval_period = 20_000
train.output_dir = "output/pretrain/siamese_detr_coco_conditional_detr_r50_120k"
