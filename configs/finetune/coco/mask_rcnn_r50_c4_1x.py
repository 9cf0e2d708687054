"""Mask R-CNN C4 on COCO 2017: MoCo's protocol (arXiv:1911.05722), that of the FPN recipe.

train.init_checkpoint= takes the exported backbone.
"""

from ...common.models.mask_rcnn_c4 import model
from .mask_rcnn_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/finetune/mask_rcnn_r50_c4_1x"
