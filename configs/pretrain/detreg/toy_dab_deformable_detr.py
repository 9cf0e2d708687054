"""DETReg of a small DAB-Deformable-DETR on the embedded images, from random weights."""

from ...common.models.detreg import detreg
from ...finetune.toy.dab_deformable_detr import model, optimizer
from .toy_deformable_detr import dataloader, lr_multiplier, train

model = detreg(model, freeze_at=0)

train.output_dir = "output/pretrain/detreg_toy_dab_deformable_detr"
