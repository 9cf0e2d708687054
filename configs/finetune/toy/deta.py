"""A small DETA from random weights on the embedded data set."""

from ...common.models.deta import model
from ...common.models.small_detr import small
from .deformable_detr import dataloader, lr_multiplier, optimizer, train

model = small(model, in_features=["res3", "res4", "res5"], queries=100)

train.output_dir = "output/finetune/toy_deta"
