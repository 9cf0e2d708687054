"""JoinDet's ablations: single-scale Deformable DETR on COCO, 50 epochs, then VOC.

The rows of the paper's tables are overrides of this file, see docs/methods/join_det.md.
"""

from ...common.models.deformable_detr_single_scale import model
from ...common.models.join_det import join_det
from .coco_deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train

model = join_det(model)
model.priors.stride = 32  # the only level

train.output_dir = "output/pretrain/join_det_coco_deformable_detr_r50_single_scale_50ep"
