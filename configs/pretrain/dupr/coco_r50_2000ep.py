"""DUPR on COCO train2017 without its labels, 2000 epochs of 118,287 images."""

from .imagenet_r50_200ep import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "coco_2017_train_unlabeled"

train.max_iter = "2000 epochs"
train.checkpointer.period = "50 epochs"
train.output_dir = "output/pretrain/dupr_coco_r50_2000ep"
