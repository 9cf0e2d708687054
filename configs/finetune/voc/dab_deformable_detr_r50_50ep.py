"""DAB-Deformable-DETR on VOC 07+12, 50 epochs: COCO's schedule, as Siamese DETR compares."""

from ...common.data.detr import detr
from ...common.schedule import multistep
from ..coco.dab_deformable_detr_r50_50ep import model, optimizer, train

dataloader = detr("voc_2007_trainval,voc_2012_trainval", "voc_2007_test", batch=16)

lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.eval_period = "5 epochs"
train.output_dir = "output/finetune/voc_dab_deformable_detr_r50_50ep"
