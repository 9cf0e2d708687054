"""Siamese DETR of a small Deformable DETR on the embedded images, from random weights.

Its boxes first:

python tools/extract_priors.py --dataset toy_unlabeled --out output/priors/toy_unlabeled \\
    --source selective-search:ranked=contrast,side=[0.06,0.75],most_aspect=3.5
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.priors import StoredBoxes

from ...common.data.priors import crop_colours
from ...common.data.proposals import proposals
from ...common.data.siamese import siamese
from ...common.models.siamese_detr import siamese_detr
from ...common.schedule import multistep
from ...finetune.toy.deformable_detr import model, optimizer, train

dataloader = dict(
    train=siamese(
        "toy_unlabeled",
        L(StoredBoxes)(path="output/priors/toy_unlabeled"),
        batch=16,
        short_edges=[128, 144, 160],
        max_size=160,
        workers=1,
    ),
    **proposals("toy_val", test_edge=128, max_size=128, workers=1),
)
dataloader["test"].batch_size = 16
dataloader["train"].mapper.crop_size = 64
dataloader["train"].mapper.photometric = crop_colours(sigma=[0.1, 1.0])  # 2.0 * 64 / 128

model = siamese_detr(model, freeze_at=0)  # without a file of weights the backbone learns too

lr_multiplier = multistep([3], total=4, warmup=0.1)

train.max_iter = "8 epochs"
train.eval_period = "4 epochs"
train.max_bad_images = 0.2  # images without boxes count
train.output_dir = "output/pretrain/siamese_detr_toy_deformable_detr"
