"""The embedded scenes with their eight shapes and the ground, for two CPU cores: the quickstart's
network of one block a stage, 96-pixel views, and the level of the scenes with the least noise.
"""

from ...quickstart.models import resnet
from .coco_stuff27_r18 import dataloader, lr_multiplier, model, optimizer, train

model.backbone = resnet(["res2", "res3", "res4", "res5"])
model.channels = 64

dataloader.train.dataset.names = "toy_unlabeled:level=easy"
dataloader.train.mapper.size = 96
dataloader.train.mapper.resize = 128  # the scenes' own size
colours = dataloader.train.mapper.photometric  # as weak as the quickstart's
colours.brightness = colours.contrast = colours.saturation = 0.2
colours.hue = 0.05
colours.grayscale = 0.1
colours.blur = 0.2
colours.sigma = [0.1, 0.4]  # 2.0 * 128 / 640
dataloader.train.total_batch_size = 32
dataloader.train.num_workers = 2
dataloader.test.dataset.names = "toy_sem_seg_val:level=easy"
dataloader.test.num_workers = 2

optimizer.lr = 0.05

train.max_iter = 240
train.log_period = 20
train.channels_last = True
train.output_dir = "output/pretrain/dense_siam_segmentation_toy"
