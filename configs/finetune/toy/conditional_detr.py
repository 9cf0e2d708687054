"""A small Conditional DETR from random weights on the embedded data set."""

from ...common.models.conditional_detr import model
from ...common.models.small_detr import small
from ...common.optim import AdamW_detr as optimizer
from .deformable_detr import dataloader, lr_multiplier, train

model = small(model, in_features=["res4"], queries=50)

optimizer.params.rules[0].lr_factor = 1.0  # nothing is pretrained
optimizer.lr = 5e-4

train.output_dir = "output/finetune/toy_conditional_detr"
