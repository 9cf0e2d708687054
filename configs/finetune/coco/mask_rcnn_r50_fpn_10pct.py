"""Mask R-CNN FPN on 10 % of COCO's labels, drawn by image; 60k steps as in DUPR.

The paper does not print the milestones; 2/3 and 8/9 are those of the 1x schedule.
"""

from ...common.schedule import multistep
from .mask_rcnn_r50_fpn_1x import dataloader, model, optimizer, train

dataloader.train.dataset.subset = "10%"

lr_multiplier = multistep([40000, 53333], total=60000, warmup=1000)

train.max_iter = 60000
train.output_dir = "output/finetune/mask_rcnn_r50_fpn_10pct"
