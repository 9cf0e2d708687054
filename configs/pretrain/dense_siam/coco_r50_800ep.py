"""DenseSiam on COCO train2017 without its labels: 800 epochs are 185k steps of 512, a little more
than a third of the ImageNet recipe's."""

from .imagenet_r50_200ep import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "coco_2017_train_unlabeled"

train.max_iter = "800 epochs"
train.checkpointer.period = "20 epochs"
train.output_dir = "output/pretrain/dense_siam_coco_r50_800ep"
