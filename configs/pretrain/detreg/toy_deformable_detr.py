"""DETReg of a small Deformable DETR on the embedded images, from random weights. Its boxes first:

python tools/extract_priors.py --dataset toy_unlabeled --out output/priors/toy_unlabeled \\
    --source selective-search:ranked=contrast,side=[0.06,0.75],most_aspect=3.5
"""

from detectron2.config import LazyCall as L

from d2_unsupdet.priors import StoredBoxes

from ...common.data.priors import crop_colours, flip_crop_resize, priors
from ...common.data.proposals import proposals
from ...common.models.detreg import detreg
from ...common.schedule import multistep
from ...finetune.toy.deformable_detr import model, optimizer, train

dataloader = dict(
    train=priors(
        "toy_unlabeled",
        L(StoredBoxes)(path="output/priors/toy_unlabeled"),
        flip_crop_resize([128, 144, 160], 160, crop_edges=[128, 160], crop=[96, 160]),
        batch=16,
        workers=1,
        count=10,
    ),
    **proposals("toy_val", test_edge=128, max_size=128, workers=1),
)
dataloader["test"].batch_size = 16
dataloader["train"].mapper.crop_size = 64
dataloader["train"].mapper.photometric = crop_colours(sigma=[0.1, 1.0])  # 2.0 * 64 / 128

model = detreg(model, freeze_at=0)  # without a file of weights the backbone learns too

lr_multiplier = multistep([3], total=4, warmup=0.1)

train.max_iter = "8 epochs"
train.eval_period = "4 epochs"
train.max_bad_images = 0.2  # images without boxes count
train.output_dir = "output/pretrain/detreg_toy_deformable_detr"
