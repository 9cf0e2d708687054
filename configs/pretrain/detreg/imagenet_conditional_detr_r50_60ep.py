"""DETReg on ImageNet: Conditional DETR, 100 queries, for Siamese DETR's comparison.

How long its authors trained DETReg is not stated; the 60 epochs are those of DETReg on DETR.
"""

from ...common.models.conditional_detr import model
from ...common.models.detreg import detreg
from .imagenet_detr_r50_60ep import dataloader, lr_multiplier, optimizer, train

model.query_source.num_queries = 100
model = detreg(model)

train.output_dir = "output/pretrain/detreg_imagenet_conditional_detr_r50_60ep"
