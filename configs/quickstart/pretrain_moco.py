# MoCo v2 on the embedded images, without labels. Others: dataloader.train.dataset.names=...
from ..common.data.paired_views import dataloader
from ..common.optim import SGD as optimizer
from ..common.schedule import cosine
from ..common.train import train
from .models import moco as model

dataloader.train.dataset.names = "toy_unlabeled"
dataloader.train.mapper.size = 96
# The paper's colours and blur are for 224 pixels; here MoCo would learn next to nothing in minutes.
colours = dataloader.train.mapper.photometric
colours.brightness = colours.contrast = colours.saturation = 0.2
colours.hue = 0.05
colours.grayscale = 0.1
colours.blur = 0.2
colours.sigma = [0.1, 0.8]  # 2.0 * 96 / 224
dataloader.train.total_batch_size = 64
dataloader.train.num_workers = 2

optimizer.lr = 0.06
lr_multiplier = cosine()

train.output_dir = "output/quickstart/pretrain"
train.max_iter = 600
train.checkpointer.period = 200
train.log_period = 20
train.channels_last = True
