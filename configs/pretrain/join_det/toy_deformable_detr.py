"""JoinDet of a small Deformable DETR on the embedded images, from random weights.

Its first priors are then no better than random boxes; train.refresh.start= takes a store of others.
"""

from ...common.data.living_priors import living_priors
from ...common.data.priors import flip_crop_resize
from ...common.models.join_det import join_det
from ...common.toy_boxes import lr_multiplier, toy_length, toy_loaders
from ...finetune.toy.deformable_detr import model, optimizer, train

dataloader = toy_loaders(
    **living_priors(
        "toy_unlabeled",
        flip_crop_resize([128, 144, 160], 160, crop_edges=[128, 160], crop=[96, 160]),
        batch=16,
        workers=1,
        edge=128,
        max_size=160,
        count=10,
    ),
)

model = join_det(model, freeze_at=0)  # without a file of weights the backbone learns too
model.priors.stride = 8  # 16 x 16 cells of 128 pixels
model.prior_update.most = 10

train = toy_length(train)
train.refresh.period = "2 epochs"
train.output_dir = "output/pretrain/join_det_toy_deformable_detr"
