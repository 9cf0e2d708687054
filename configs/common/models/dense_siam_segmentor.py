"""DenseSiam's unsupervised segmentation: ResNet-18, PiCIE's decoder, clusters as classes."""

from detectron2.config import LazyCall as L

from d2_unsupdet.pretext import DenseSiamSegmentor

from .resnet import pixel_mean, pixel_std, resnet

model = L(DenseSiamSegmentor)(
    backbone=resnet(out_features=["res2", "res3", "res4", "res5"], norm="BN", depth=18),
    num_classes="auto",  # clusters: as many as the labelled data set has classes, or a number
    aux_classes=128,
    channels=128,
    pixel_weight="auto",  # ln 128 / (ln 128 + ln 27) = 0.5955
    aux_weight="auto",  # ln 27 / (ln 128 + ln 27) = 0.4045
    seg_weight=1.0,
    rebalance=True,
    region_weight=0.1,
    region_start=0.8,  # the last 2 of 10 epochs
    region_temperature=0.1,
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
