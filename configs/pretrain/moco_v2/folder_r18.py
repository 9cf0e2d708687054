"""MoCo v2, ResNet-18, on a folder of some thousand images:

dataloader.train.dataset.names=folder:/path/to/images
"""

from .imagenet_r50_200ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.stages.depth = 18
# Below the number of images: a bank that holds the query's own image teaches the wrong thing.
model.queue_size = 1024

dataloader.train.dataset.names = "toy_unlabeled"
dataloader.train.total_batch_size = 128

optimizer.lr = 0.015  # 0.03 * 128 / 256

train.max_iter = "200 epochs"
train.checkpointer.period = "10 epochs"
train.output_dir = "output/pretrain/moco_v2_folder_r18"
