"""DETReg on ImageNet, 5 epochs (arXiv:2106.04550): Deformable DETR, selective search.

train.init_checkpoint= takes the ResNet-50 that stays frozen; the paper's is SwAV's of 800 epochs.
The boxes come from a store, with several of selective search's random orders an image:

python tools/extract_priors.py --dataset imagenet_train --source selective-search:orders=4 \\
    --out output/priors/imagenet_train_selective_search
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.priors import StoredBoxes

from ...common.data.priors import flip_crop_resize, priors
from ...common.data.proposals import proposals
from ...common.models.deformable_detr import model
from ...common.models.detreg import detreg
from ...common.optim import AdamW_deformable as optimizer
from ...common.schedule import constant
from ...common.train import train

dataloader = dict(
    train=priors(
        "imagenet_train",
        L(StoredBoxes)(path="output/priors/imagenet_train_selective_search"),
        flip_crop_resize(),
        batch=192,  # 8 x 24
        count=30,
        policy="top",
        least=2,
    ),
    **proposals(),
)

model = detreg(model)

lr_multiplier = constant()

train.max_iter = "5 epochs"
train.clip_grad_norm = 0.1
train.max_bad_images = 0.05  # images with fewer than two boxes count
train.output_dir = "output/pretrain/detreg_imagenet_deformable_detr_r50_5ep"
