"""Mask R-CNN FPN on 1 % of COCO's labels, drawn by image; 15k steps as in DUPR.

The paper does not print the milestones; 2/3 and 8/9 are those of the 1x schedule.
"""

from ...common.schedule import multistep
from .mask_rcnn_r50_fpn_1x import dataloader, model, optimizer, train

dataloader.train.dataset.subset = "1%"

lr_multiplier = multistep([10000, 13333], total=15000, warmup=1000)

train.max_iter = 15000
train.output_dir = "output/finetune/mask_rcnn_r50_fpn_1pct"
