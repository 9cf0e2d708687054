"""Siamese DETR on ImageNet: DN-DAB-Deformable-DETR; its weights are not printed."""

from ...common.models.dn_dab_deformable_detr import model
from ...common.models.siamese_detr import siamese_detr
from .imagenet_detr_r50_300k import dataloader, lr_multiplier, optimizer, train

model = siamese_detr(model, global_weight=10.0, region_weight=3.0)

train.output_dir = "output/pretrain/siamese_detr_imagenet_dn_dab_deformable_detr_r50_300k"
