"""Deformable DETR on VOC 2012, 50 epochs: COCO's schedule, as Siamese DETR compares.

That its authors train on VOC 2012 alone is told by their code for Conditional DETR.
"""

from ...common.data.detr import detr
from ..coco.deformable_detr_r50_50ep import lr_multiplier, model, optimizer, train

dataloader = detr("voc_2012_trainval", "voc_2007_test", batch=32)

train.output_dir = "output/finetune/voc_deformable_detr_r50_50ep"
