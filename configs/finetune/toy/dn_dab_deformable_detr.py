"""A small DN-DAB-Deformable-DETR from random weights on the embedded data set."""

from ...common.models.dn_dab_deformable_detr import model
from ...common.models.small_detr import small
from ...common.optim import AdamW_detr as optimizer
from .deformable_detr import dataloader, lr_multiplier, train

model = small(model, in_features=["res3", "res4", "res5"], queries=50)

optimizer.params.rules[0].lr_factor = 1.0  # nothing is pretrained
optimizer.lr = 1e-3

train.output_dir = "output/finetune/toy_dn_dab_deformable_detr"
