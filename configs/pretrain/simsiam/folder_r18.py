"""SimSiam, ResNet-18, on a folder of some thousand images:

dataloader.train.dataset.names=folder:/path/to/images
"""

from .imagenet_r50_100ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.stages.depth = 18
# The width of res5 in this network, and a quarter of it, as 2048 and 512 in ResNet-50.
model.dim = 512
model.hidden = 128

dataloader.train.dataset.names = "toy_unlabeled"
dataloader.train.total_batch_size = 128

optimizer.lr = 0.025  # 0.05 * 128 / 256

train.max_iter = "200 epochs"
train.checkpointer.period = "10 epochs"
train.output_dir = "output/pretrain/simsiam_folder_r18"
