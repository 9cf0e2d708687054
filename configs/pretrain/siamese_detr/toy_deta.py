"""Siamese DETR of a small DETA on the embedded images, from random weights."""

from ...common.models.siamese_detr import siamese_detr
from ...finetune.toy.deta import model, optimizer
from .toy_deformable_detr import dataloader, lr_multiplier, train

model = siamese_detr(model, freeze_at=0)

train.output_dir = "output/pretrain/siamese_detr_toy_deta"
