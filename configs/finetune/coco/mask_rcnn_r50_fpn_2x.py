"""As mask_rcnn_r50_fpn_1x.py, twice as long."""

from ...common.schedule import multistep
from .mask_rcnn_r50_fpn_1x import dataloader, model, optimizer, train

lr_multiplier = multistep([120000, 160000], total=180000, warmup=1000)

train.max_iter = 180000
train.output_dir = "output/finetune/mask_rcnn_r50_fpn_2x"
