"""UP-DETR of a small Deformable DETR on the embedded images, from random weights."""

from detectron2.config import LazyCall as L

from d2_unsupdet.priors import RandomBoxes

from ...common.data.priors import priors, resize
from ...common.models.up_detr import up_detr
from ...common.toy_boxes import lr_multiplier, toy_length, toy_loaders
from ...finetune.toy.deformable_detr import model, optimizer, train

dataloader = toy_loaders(
    train=priors(
        "toy_unlabeled",
        L(RandomBoxes)(count=10, least_side=8),
        [resize([128, 144, 160], 160)],
        batch=16,
        workers=1,
        exactly=10,
    ),
)

model = up_detr(model, freeze_at=0)  # without a file of weights the backbone learns too

train = toy_length(train)
train.max_bad_images = 0.01  # every image has random boxes
train.output_dir = "output/pretrain/up_detr_toy_deformable_detr"
