"""SimSiam (arXiv:2011.10566)."""

from detectron2.config import LazyCall as L

from d2_unsupdet.pretext import SimSiam

from .resnet import pixel_mean, pixel_std, resnet

model = L(SimSiam)(
    backbone=resnet(out_features=["res5"], norm="BN"),
    dim=2048,
    hidden=512,
    similarity="cosine",
    zero_init_last_norm=True,
    collapse_threshold=0.1,
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
