"""UP-DETR on ImageNet as Siamese DETR's authors ran it again: Deformable DETR, 300 queries."""

from ...common.models.deformable_detr import model
from ...common.models.up_detr import up_detr
from .imagenet_conditional_detr_r50_300k import dataloader, lr_multiplier, optimizer, train

model = up_detr(model)

train.output_dir = "output/pretrain/up_detr_imagenet_deformable_detr_r50_300k"
