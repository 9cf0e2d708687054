"""SimSiam on COCO train2017 without its labels: 800 epochs, as DenseSiam's recipe beside it."""

from .imagenet_r50_100ep import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "coco_2017_train_unlabeled"

train.max_iter = "800 epochs"
train.checkpointer.period = "20 epochs"
train.output_dir = "output/pretrain/simsiam_coco_r50_800ep"
