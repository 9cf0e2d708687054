# Faster R-CNN on 50 labelled embedded images; train.init_checkpoint= takes pretrained weights.
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2_unsupdet.data import RandomPhotometric
from d2_unsupdet.data.photometric import Photometric

from ..common.data.detection import detection
from ..common.optim import AdamW as optimizer
from ..common.schedule import cosine
from ..common.train import train
from .models import faster_rcnn as model

dataloader = detection(
    "toy_train", "toy_val", batch=16, short_edges=[128], max_size=128, test_edge=128
)
dataloader.train.dataset.subset = 50
dataloader.train.mapper.augmentations += [
    L(T.RandomFlip)(horizontal=False, vertical=True),
    L(T.RandomRotation)(angle=[0, 90], sample_style="choice"),
    # Fifty images have few colours: without this the detector learns them by heart.
    L(RandomPhotometric)(photometric=L(Photometric)(hue=0.5, grayscale=0.1, blur=0.0)),
]
dataloader.train.num_workers = 2
dataloader.train.aspect_ratio_grouping = False  # all images are square
dataloader.test.num_workers = 2
dataloader.test.batch_size = 16

optimizer.lr = 1e-3
lr_multiplier = cosine(warmup=0.05)

train.output_dir = "output/quickstart/finetune"
train.max_iter = 500
train.clip_grad_norm = 5.0
train.eval_period = 250
train.checkpointer.period = 250
train.log_period = 20
train.channels_last = True
