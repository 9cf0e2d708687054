"""Siamese DETR on ImageNet, 300,000 steps of 256 images (arXiv:2303.18144): DETR, 100 queries.

train.init_checkpoint= takes the ResNet-50 that stays frozen; the paper's is SwAV's of 800 epochs.
model.global_weight=3 model.feature_weight=10 is what the supplement's text says. The boxes first:

python tools/extract_priors.py --dataset imagenet_train --source edge-boxes:model=model.yml.gz \\
    --out output/priors/imagenet_train_edge_boxes
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.priors import StoredBoxes

from ...common.data.proposals import proposals
from ...common.data.siamese import siamese
from ...common.models.detr import model
from ...common.models.siamese_detr import siamese_detr
from ...common.optim import AdamW_detr as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = dict(
    train=siamese(
        "imagenet_train",
        L(StoredBoxes)(path="output/priors/imagenet_train_edge_boxes"),
        batch=256,  # 32 x 8
    ),
    **proposals(),
)

model = siamese_detr(model, global_weight=10.0, region_weight=3.0)

lr_multiplier = multistep([200_000], total=300_000)  # epochs 40 and 60

train.max_iter = 300_000
train.clip_grad_norm = 0.1
train.max_bad_images = 0.05  # images without a box in what both views show count
train.output_dir = "output/pretrain/siamese_detr_imagenet_detr_r50_300k"
