"""MoCo v2 (arXiv:2003.04297)."""

from detectron2.config import LazyCall as L

from d2_unsupdet.pretext import MoCoV2

from .resnet import pixel_mean, pixel_std, resnet

model = L(MoCoV2)(
    backbone=resnet(out_features=["res5"], norm="BN"),
    dim=128,
    queue_size=65536,
    momentum=0.999,
    temperature=0.2,
    shuffle_bn=True,
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
