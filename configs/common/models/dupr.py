"""DUPR (arXiv:2103.04814) for 224-pixel views."""

from detectron2.config import LazyCall as L

from d2_unsupdet.pretext import DUPR, InfoNCE

from .resnet import pixel_mean, pixel_std, resnet

model = L(DUPR)(
    backbone=resnet(out_features=["res2", "res3", "res4", "res5"], norm="BN"),
    levels="${.backbone.out_features}",
    image_weights=[0.1, 0.4, 0.7, 1.0],  # alpha
    patch_weights=[0.0, 0.0, 1.0, 1.0],  # beta
    patch_sizes=[56, 28, 14, 7],  # S: the levels' own maps at 224 pixels
    patch_reduction="mean",
    image_loss=L(InfoNCE)(temperature=0.2, chunk=None),
    # 32 images x 14 x 14 rows against 65,536 keys are 1.6 GB of logits, 512 rows 0.13 GB.
    patch_loss=L(InfoNCE)(temperature=0.2, chunk=512),
    dim=128,
    queue_size=65536,
    patch_queue_size=65536,
    patch_keys=4,
    momentum=0.999,
    shuffle_bn=True,
    sampling_ratio=0,
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
