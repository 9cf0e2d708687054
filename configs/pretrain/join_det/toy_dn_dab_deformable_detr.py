"""JoinDet of a small DN-DAB-Deformable-DETR on the embedded images, from random weights."""

from ...common.models.join_det import join_det
from ...finetune.toy.dn_dab_deformable_detr import model, optimizer
from .toy_deformable_detr import dataloader, lr_multiplier, train

model = join_det(model, freeze_at=0)
model.prior_update.most = 10

train.output_dir = "output/pretrain/join_det_toy_dn_dab_deformable_detr"
