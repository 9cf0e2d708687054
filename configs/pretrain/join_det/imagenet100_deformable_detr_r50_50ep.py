"""JoinDet on a tenth of ImageNet's classes, 50 epochs: its table of proposals.

New priors every 10 epochs: as many steps apart as on ImageNet; the paper does not print it.
dataloader.test.dataset.names=coco_2017_val scores it as there.
"""

from ...common.schedule import multistep
from .imagenet_deformable_detr_r50_5ep import dataloader, model, optimizer, train

dataloader.train.dataset.names = "imagenet100_train"

lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.refresh.period = "10 epochs"
train.output_dir = "output/pretrain/join_det_imagenet100_deformable_detr_r50_50ep"
