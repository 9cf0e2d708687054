"""UP-DETR on a tenth of ImageNet's classes: the baseline of DETReg's and JoinDet's proposals.

They name neither detector nor length; DETReg's are taken: Deformable DETR, 50 epochs, drop at 40.
dataloader.test.dataset.names=coco_2017_val scores it as they do.
"""

from ...common.models.deformable_detr import model
from ...common.models.up_detr import up_detr
from ...common.schedule import multistep
from .imagenet_detr_r50_60ep import dataloader, optimizer, train

dataloader.train.dataset.names = "imagenet100_train"

model = up_detr(model)

lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.output_dir = "output/pretrain/up_detr_imagenet100_deformable_detr_r50_50ep"
