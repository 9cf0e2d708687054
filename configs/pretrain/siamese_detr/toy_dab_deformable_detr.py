"""Siamese DETR of a small DAB-Deformable-DETR on the embedded images, from random weights."""

from ...common.models.siamese_detr import siamese_detr
from ...finetune.toy.dab_deformable_detr import model, optimizer
from .toy_deformable_detr import dataloader, lr_multiplier, train

model = siamese_detr(model, freeze_at=0)

train.output_dir = "output/pretrain/siamese_detr_toy_dab_deformable_detr"
