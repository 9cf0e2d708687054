# Siamese DETR with the quickstart's small detector; an image gives two views, so it costs two.
from detectron2.config import LazyCall as L

from d2_unsupdet.priors import StoredBoxes

from ..common.data.priors import crop_colours
from ..common.data.siamese import siamese
from ..common.models.siamese_detr import siamese_detr
from .detector import LONG, SIDE, detector
from .pretrain_detreg import CROP, SIGMA, dataloader, lr_multiplier, optimizer, train

dataloader["train"] = siamese(
    "toy_unlabeled",
    L(StoredBoxes)(path="output/quickstart/priors"),
    batch=16,
    short_edges=[SIDE],
    max_size=LONG,
    workers=1,
)
dataloader["train"].mapper.crop_size = CROP
dataloader["train"].mapper.photometric = crop_colours(SIGMA)

model = siamese_detr(detector, freeze_at=0)
model.levels = ["res4"]

train.output_dir = "output/quickstart/pretrain_siamese_detr"
