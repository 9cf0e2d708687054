# UP-DETR with the quickstart's small detector: boxes are drawn at random.
from detectron2.config import LazyCall as L

from d2_unsupdet.priors import RandomBoxes

from ..common.models.up_detr import up_detr
from .detector import detector
from .pretrain_detreg import dataloader, lr_multiplier, optimizer, train

dataloader["train"].mapper.source = L(RandomBoxes)(count=10)
dataloader["train"].mapper.exactly = 10

model = up_detr(detector, freeze_at=0)
model.levels = ["res4"]

train.output_dir = "output/quickstart/pretrain_up_detr"
