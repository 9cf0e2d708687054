# JoinDet with the quickstart's small detector. Its first boxes are DETReg's, since random weights
# have no eigen attention worth the name: "train.refresh.start=''" begins with them all the same.
from ..common.data.living_priors import living_priors
from ..common.models.join_det import join_det
from .detector import LONG, SIDE, augmentations, detector
from .pretrain_detreg import CROP, SIGMA, crop_colours, lr_multiplier, optimizer, train
from .pretrain_detreg import dataloader as fixed

dataloader = dict(
    **living_priors(
        "toy_unlabeled",
        augmentations(),
        batch=16,
        workers=1,
        edge=SIDE,
        max_size=LONG,
        count=10,
    ),
    test=fixed["test"],
    evaluator=fixed["evaluator"],
)
dataloader["train"].mapper.crop_size = CROP
dataloader["train"].mapper.photometric = crop_colours(SIGMA)

model = join_det(detector, freeze_at=0)
model.priors.stride = 8  # 12 x 12 cells of 96 pixels
model.prior_update.most = 10

train.refresh.start = "output/quickstart/priors"
train.refresh.period = 250
train.output_dir = "output/quickstart/pretrain_join_det"
