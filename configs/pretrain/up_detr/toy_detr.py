"""UP-DETR of a small DETR on the embedded images, from random weights."""

from ...common.models.up_detr import up_detr
from ...finetune.toy.detr import model, optimizer
from .toy_deformable_detr import dataloader, lr_multiplier, train

model = up_detr(model, freeze_at=0)

train.output_dir = "output/pretrain/up_detr_toy_detr"
