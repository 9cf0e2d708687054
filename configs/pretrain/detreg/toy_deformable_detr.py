"""DETReg of a small Deformable DETR on the embedded images, from random weights. Its boxes first:

python tools/extract_priors.py --dataset toy_unlabeled --out output/priors/toy_unlabeled \\
    --source selective-search:ranked=contrast,side=[0.06,0.75],most_aspect=3.5
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.priors import StoredBoxes

from ...common.data.priors import flip_crop_resize, priors
from ...common.models.detreg import detreg
from ...common.toy_boxes import lr_multiplier, toy_length, toy_loaders
from ...finetune.toy.deformable_detr import model, optimizer, train

dataloader = toy_loaders(
    train=priors(
        "toy_unlabeled",
        L(StoredBoxes)(path="output/priors/toy_unlabeled"),
        flip_crop_resize([128, 144, 160], 160, crop_edges=[128, 160], crop=[96, 160]),
        batch=16,
        workers=1,
        count=10,
    ),
)

model = detreg(model, freeze_at=0)  # without a file of weights the backbone learns too

train = toy_length(train)
train.output_dir = "output/pretrain/detreg_toy_deformable_detr"
