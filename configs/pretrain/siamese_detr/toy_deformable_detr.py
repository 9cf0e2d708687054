"""Siamese DETR of a small Deformable DETR on the embedded images, from random weights.

Its boxes first:

python tools/extract_priors.py --dataset toy_unlabeled --out output/priors/toy_unlabeled \\
    --source selective-search:ranked=contrast,side=[0.06,0.75],most_aspect=3.5
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.priors import StoredBoxes

from ...common.data.siamese import siamese
from ...common.models.siamese_detr import siamese_detr
from ...common.toy_boxes import lr_multiplier, toy_length, toy_loaders
from ...finetune.toy.deformable_detr import model, optimizer, train

dataloader = toy_loaders(
    train=siamese(
        "toy_unlabeled",
        L(StoredBoxes)(path="output/priors/toy_unlabeled"),
        batch=16,
        short_edges=[128, 144, 160],
        max_size=160,
        workers=1,
    ),
)

model = siamese_detr(model, freeze_at=0)  # without a file of weights the backbone learns too

train = toy_length(train)
train.output_dir = "output/pretrain/siamese_detr_toy_deformable_detr"
