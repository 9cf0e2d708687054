"""JoinDet on ImageNet, 5 epochs, new priors after each: Deformable DETR, four levels.

train.init_checkpoint= takes the ResNet-50 that stays frozen; the paper's is SwAV's. The paper names
16 GPUs and no batch size; DETReg's is taken.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from d2_unsupdet.data import LargeScaleJitter

from ...common.data.living_priors import living_priors
from ...common.data.proposals import proposals
from ...common.models.deformable_detr import model
from ...common.models.join_det import join_det
from ...common.optim import AdamW_deformable as optimizer
from ...common.schedule import constant
from ...common.train import train

# Priors are mostly large, so they are drawn at a tenth to twice DETReg's size (table 7 without).
jitter = [
    L(T.RandomFlip)(horizontal=True),
    L(LargeScaleJitter)(size=(480, 600), scale=(0.1, 2.0), pad=False),
]

dataloader = living_priors("imagenet_train", jitter, batch=192, count=30)  # 8 x 24
dataloader.update(proposals())

model = join_det(model)

lr_multiplier = constant()

train.max_iter = "5 epochs"
train.refresh.period = "1 epochs"
train.clip_grad_norm = 0.1
train.max_bad_images = 0.2  # images without boxes count
train.output_dir = "output/pretrain/join_det_imagenet_deformable_detr_r50_5ep"
