"""Single-scale Deformable DETR on VOC 07+12, 10 epochs: JoinDet's ablations, each of three seeds.

The paper prints no drop of the rate. DETReg's code, which it builds on, drops at epoch 40 unless
told otherwise, so here it never does.
"""

from ...common.models.deformable_detr_single_scale import model
from ...common.schedule import constant
from .deformable_detr_r50_100ep import dataloader, optimizer, train

lr_multiplier = constant()

train.max_iter = "10 epochs"
train.output_dir = "output/finetune/voc_deformable_detr_r50_single_scale_10ep"
