"""As mask_rcnn_r50_fpn_1x.py, 12k steps: DetCo's short schedule (arXiv:2102.04803)."""

from ...common.schedule import multistep
from .mask_rcnn_r50_fpn_1x import dataloader, model, optimizer, train

lr_multiplier = multistep([9000, 11000], total=12000, warmup=1000)

train.max_iter = 12000
train.output_dir = "output/finetune/mask_rcnn_r50_fpn_12k"
