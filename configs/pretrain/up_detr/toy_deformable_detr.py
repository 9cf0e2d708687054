"""UP-DETR of a small Deformable DETR on the embedded images, from random weights."""

from detectron2.config import LazyCall as L

from d2_unsupdet.priors import RandomBoxes

from ...common.data.priors import crop_colours, priors, resize
from ...common.data.proposals import proposals
from ...common.models.up_detr import up_detr
from ...common.schedule import multistep
from ...finetune.toy.deformable_detr import model, optimizer, train

dataloader = dict(
    train=priors(
        "toy_unlabeled",
        L(RandomBoxes)(count=10, least_side=8),
        [resize([128, 144, 160], 160)],
        batch=16,
        workers=1,
        exactly=10,
    ),
    **proposals("toy_val", test_edge=128, max_size=128, workers=1),
)
dataloader["test"].batch_size = 16
dataloader["train"].mapper.crop_size = 64
dataloader["train"].mapper.photometric = crop_colours(sigma=[0.1, 1.0])  # 2.0 * 64 / 128

model = up_detr(model, freeze_at=0)  # without a file of weights the backbone learns too

lr_multiplier = multistep([3], total=4, warmup=0.1)

train.max_iter = "8 epochs"
train.eval_period = "4 epochs"
train.output_dir = "output/pretrain/up_detr_toy_deformable_detr"
