# DETReg on images without labels, embedded or other: dataloader.train.dataset.names=... with their
# boxes from tools/extract_priors.py. Scored as boxes without classes on labelled images.
from detectron2.config import LazyCall as L

from d2_unsupdet.priors import StoredBoxes

from ..common.data.priors import crop_colours, priors
from ..common.data.proposals import proposals
from ..common.models.detreg import detreg
from ..common.optim import AdamW as optimizer
from ..common.schedule import cosine
from ..common.train import train
from .detector import LONG, SIDE, augmentations, detector

CROP = 48
SIGMA = [0.1, 0.8]  # 2.0 * 48 / 128

dataloader = dict(
    train=priors(
        "toy_unlabeled",
        L(StoredBoxes)(path="output/quickstart/priors"),
        augmentations(),
        batch=16,
        workers=1,
        count=10,
    ),
    **proposals("toy_val", test_edge=SIDE, max_size=LONG, workers=1),
)
dataloader["train"].mapper.crop_size = CROP
dataloader["train"].mapper.photometric = crop_colours(SIGMA)
dataloader["test"].batch_size = 16

model = detreg(detector, freeze_at=0)  # without a file of weights the backbone learns too

optimizer.lr = 1e-3
lr_multiplier = cosine(warmup=0.02)

train.output_dir = "output/quickstart/pretrain"
train.max_iter = 500
train.clip_grad_norm = 1.0
train.eval_period = 250
train.checkpointer.period = 125
train.log_period = 20
train.channels_last = True
train.max_bad_images = 0.2  # images without boxes count
