"""Siamese DETR of a small DETR on the embedded images, from random weights."""

from ...common.models.siamese_detr import siamese_detr
from ...finetune.toy.detr import model, optimizer
from .toy_deformable_detr import dataloader, lr_multiplier, train

model = siamese_detr(model, freeze_at=0)

train.output_dir = "output/pretrain/siamese_detr_toy_detr"
