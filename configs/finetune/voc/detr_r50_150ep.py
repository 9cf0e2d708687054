"""DETR on VOC 07+12, 150 epochs, as UP-DETR compares (arXiv:2011.09094)."""

from ...common.data.detr import detr
from ...common.schedule import multistep
from ..coco.detr_r50_300ep import model, optimizer, train

dataloader = detr("voc_2007_trainval,voc_2012_trainval", "voc_2007_test", batch=16)

lr_multiplier = multistep([100], total=150)

train.max_iter = "150 epochs"
train.eval_period = "10 epochs"
train.output_dir = "output/finetune/voc_detr_r50_150ep"
