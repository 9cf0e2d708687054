"""A small Deformable DETR from random weights on the embedded data set."""

from ...common.data.detr import detr
from ...common.models.deformable_detr import model
from ...common.models.small_detr import small
from ...common.optim import AdamW_deformable as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = detr(
    "toy_train",
    "toy_val",
    batch=16,
    short_edges=[128],
    max_size=128,
    test_edge=128,
    crop_edges=[128, 160],
    crop=[96, 160],
)
dataloader.train.num_workers = 1
dataloader.test.num_workers = 1
dataloader.test.batch_size = 16

model = small(model, in_features=["res3", "res4", "res5"], queries=50)

optimizer.params.rules[0].lr_factor = 1.0  # nothing is pretrained
optimizer.lr = 1e-3
lr_multiplier = multistep([4], total=5, warmup=0.1)

train.max_iter = "16 epochs"
train.clip_grad_norm = 1.0  # from scratch 0.1 only slows AdamW down
train.eval_period = "4 epochs"
train.channels_last = True
train.output_dir = "output/finetune/toy_deformable_detr"
