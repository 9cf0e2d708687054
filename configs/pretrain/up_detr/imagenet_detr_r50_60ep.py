"""UP-DETR on ImageNet, 60 epochs (arXiv:2011.09094): DETR with norms before each layer.

train.init_checkpoint= takes the ResNet-50 that stays frozen; the paper's is SwAV's of 800 epochs.
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.priors import RandomBoxes

from ...common.data.priors import priors, resize
from ...common.data.proposals import proposals
from ...common.models.detr import model
from ...common.models.up_detr import up_detr
from ...common.optim import AdamW_detr as optimizer
from ...common.schedule import multistep
from ...common.train import train

dataloader = dict(
    train=priors(
        "imagenet_train",
        L(RandomBoxes)(count=10, least_side=8),
        [resize()],
        batch=256,  # 8 x 32
        exactly=10,
    ),
    **proposals(),
)

model.encoder.pre_norm = True
model = up_detr(model)

lr_multiplier = multistep([40], total=60)

train.max_iter = "60 epochs"
train.clip_grad_norm = 0.1
train.output_dir = "output/pretrain/up_detr_imagenet_detr_r50_60ep"
