"""JoinDet of a small Deformable DETR on the embedded images, from random weights.

Its first priors are then no better than random boxes; train.refresh.start= takes a store of others.
"""

from ...common.data.living_priors import living_priors
from ...common.data.priors import crop_colours, flip_crop_resize
from ...common.data.proposals import proposals
from ...common.models.join_det import join_det
from ...common.schedule import multistep
from ...finetune.toy.deformable_detr import model, optimizer, train

dataloader = dict(
    **living_priors(
        "toy_unlabeled",
        flip_crop_resize([128, 144, 160], 160, crop_edges=[128, 160], crop=[96, 160]),
        batch=16,
        workers=1,
        edge=128,
        max_size=160,
        count=10,
    ),
    **proposals("toy_val", test_edge=128, max_size=128, workers=1),
)
dataloader["test"].batch_size = 16
dataloader["train"].mapper.crop_size = 64
dataloader["train"].mapper.photometric = crop_colours(sigma=[0.1, 1.0])  # 2.0 * 64 / 128

model = join_det(model, freeze_at=0)  # without a file of weights the backbone learns too
model.priors.stride = 8  # 16 x 16 cells of 128 pixels
model.prior_update.most = 10

lr_multiplier = multistep([3], total=4, warmup=0.1)

train.max_iter = "8 epochs"
train.refresh.period = "2 epochs"
train.eval_period = "4 epochs"
train.max_bad_images = 0.2  # images without boxes count
train.output_dir = "output/pretrain/join_det_toy_deformable_detr"
