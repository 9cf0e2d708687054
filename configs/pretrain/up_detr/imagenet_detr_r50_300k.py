"""UP-DETR on ImageNet as Siamese DETR's authors ran it again: DETR with norms after each layer."""

from ...common.models.detr import model
from ...common.models.up_detr import up_detr
from .imagenet_conditional_detr_r50_300k import dataloader, lr_multiplier, optimizer, train

model = up_detr(model)

train.output_dir = "output/pretrain/up_detr_imagenet_detr_r50_300k"
