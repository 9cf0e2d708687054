"""DETReg on COCO: Conditional DETR, 100 queries, for Siamese DETR's comparison.

How long its authors trained DETReg is not stated; the 50 epochs are those of DETReg on COCO.
"""

from ...common.models.conditional_detr import model
from ...common.models.detreg import detreg
from ...common.optim import AdamW_detr as optimizer
from .coco_deformable_detr_r50_50ep import dataloader, lr_multiplier, train

model.query_source.num_queries = 100
model = detreg(model)

train.output_dir = "output/pretrain/detreg_coco_conditional_detr_r50_50ep"
