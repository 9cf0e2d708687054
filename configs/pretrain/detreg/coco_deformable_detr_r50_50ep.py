"""DETReg on COCO train2017 without its labels, 50 epochs: the start of its low-data tables."""

from ...common.data.proposals import proposals
from .imagenet100_deformable_detr_r50_50ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

dataloader.train.dataset.names = "coco_2017_train_unlabeled"
dataloader.train.mapper.source.path = "output/priors/coco_2017_train_selective_search"
dataloader.update(proposals("coco_2017_val"))

train.eval_period = "10 epochs"
train.output_dir = "output/pretrain/detreg_coco_deformable_detr_r50_50ep"
