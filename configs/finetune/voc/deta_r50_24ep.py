"""DETA on VOC 07+12: COCO's 24 epochs; no paper gives a schedule."""

from ...common.data.detr import detr
from ...common.schedule import multistep
from ..coco.deta_r50_12ep import model, optimizer, train

dataloader = detr("voc_2007_trainval,voc_2012_trainval", "voc_2007_test", batch=16)

lr_multiplier = multistep([20], total=24)

train.max_iter = "24 epochs"
train.eval_period = "2 epochs"
train.output_dir = "output/finetune/voc_deta_r50_24ep"
