"""Deformable DETR on 1 % of COCO's labels, 2000 epochs at one rate, as DETReg (arXiv:2106.04550).

It starts from a pretrained detector: train.init_checkpoint=.
"""

from ...common.schedule import constant
from .deformable_detr_r50_50ep import dataloader, model, optimizer, train

dataloader.train.dataset.subset = "1%"
dataloader.train.total_batch_size = 24  # 8 x 3

# A drop as early as in long runs cost its authors AP.
lr_multiplier = constant()

train.max_iter = "2000 epochs"
train.eval_period = "100 epochs"
train.output_dir = "output/finetune/deformable_detr_r50_1pct"
