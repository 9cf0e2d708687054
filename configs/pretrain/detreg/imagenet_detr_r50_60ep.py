"""DETReg on ImageNet, 60 epochs: DETR with norms before each layer, rate 1e-4."""

from ...common.models.detr import model
from ...common.models.detreg import detreg
from ...common.optim import AdamW_detr as optimizer
from .imagenet_deformable_detr_r50_5ep import dataloader, lr_multiplier, train

model.encoder.pre_norm = True
model = detreg(model)

train.max_iter = "60 epochs"
train.output_dir = "output/pretrain/detreg_imagenet_detr_r50_60ep"
