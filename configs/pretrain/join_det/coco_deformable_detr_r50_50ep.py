"""JoinDet on COCO train2017 without its labels, 50 epochs, new priors every 10."""

from ...common.data.proposals import proposals
from ...common.schedule import multistep
from .imagenet_deformable_detr_r50_5ep import dataloader, model, optimizer, train

dataloader.train.dataset.names = "coco_2017_train_unlabeled"
dataloader.update(proposals("coco_2017_val"))

lr_multiplier = multistep([40], total=50)

train.max_iter = "50 epochs"
train.refresh.period = "10 epochs"
train.eval_period = "10 epochs"
train.output_dir = "output/pretrain/join_det_coco_deformable_detr_r50_50ep"
