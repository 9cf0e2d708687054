"""DenseSiam (arXiv:2203.11075), pretraining mode."""

from detectron2.config import LazyCall as L

from d2_unsupdet.pretext import DenseSiam
from d2_unsupdet.pretext.correspondence import correspondence

from .resnet import pixel_mean, pixel_std, resnet

model = L(DenseSiam)(
    backbone=resnet(out_features=["res5"], norm="BN"),
    image_weight=1.0,
    pixel_weight=1.0,
    region_weight=0.1,
    image_similarity="cosine",
    pixel_similarity="cross_entropy",
    # Which pixels are compared: the rows of the supplement's tables A1 and A2.
    correspondence=L(correspondence)(
        name="location",  # or "feature", "distance", "region"
        sampling="grid",  # or "random"
        grid=7,
        points=49,
        oversample=1,
        hard_share=0.0,
        threshold=0.7,
        window=48,
        stride=32,
    ),
    dim=2048,
    pixel_dim=2048,
    hidden=512,
    region_start=0.8,
    region_temperature=0.1,
    region_grid=7,
    regions=64,
    region_stop_gradient=False,
    zero_init_last_norm=True,
    collapse_threshold=0.1,
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
