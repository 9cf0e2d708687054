"""Deformable DETR on VOC 07+12, 100 epochs, as DETReg compares (arXiv:2106.04550)."""

from ...common.data.detr import detr
from ...common.schedule import multistep
from ..coco.deformable_detr_r50_50ep import model, optimizer, train

dataloader = detr("voc_2007_trainval,voc_2012_trainval", "voc_2007_test", batch=32)

lr_multiplier = multistep([70], total=100)

train.max_iter = "100 epochs"
train.eval_period = "5 epochs"
train.output_dir = "output/finetune/voc_deformable_detr_r50_100ep"
