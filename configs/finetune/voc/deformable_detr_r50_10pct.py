"""Deformable DETR on 10 % of VOC 07+12, 200 epochs, as DETReg compares (arXiv:2106.04550)."""

from ...common.data.detr import detr
from ...common.schedule import multistep
from ..coco.deformable_detr_r50_50ep import model, optimizer, train

dataloader = detr("voc_2007_trainval,voc_2012_trainval", "voc_2007_test", batch=8)
dataloader.train.dataset.subset = "10%"

lr_multiplier = multistep([150], total=200)

train.max_iter = "200 epochs"
train.eval_period = "20 epochs"
train.output_dir = "output/finetune/voc_deformable_detr_r50_10pct"
