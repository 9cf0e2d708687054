"""UP-DETR on ImageNet as Siamese DETR's authors ran it again: Conditional DETR, 100 queries."""

from ...common.models.conditional_detr import model
from ...common.models.up_detr import up_detr
from ...common.schedule import multistep
from .imagenet_detr_r50_60ep import dataloader, optimizer, train

model.query_source.num_queries = 100
model = up_detr(model)

lr_multiplier = multistep([200_000], total=300_000)  # epochs 40 and 60

train.max_iter = 300_000
train.output_dir = "output/pretrain/up_detr_imagenet_conditional_detr_r50_300k"
