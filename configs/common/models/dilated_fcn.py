"""Dilated FCN: ResNet-50 whose res5 keeps stride 16, two 3x3 convolutions of dilation 6."""

from detectron2.config import LazyCall as L
from detectron2.modeling.meta_arch import SemanticSegmentor

from d2_unsupdet.detectors import DilatedFCNHead
from d2_unsupdet.detectors.fcn import dilated_stages
from d2_unsupdet.detectors.rcnn import stage_channels

from .resnet import pixel_mean, pixel_std, resnet

model = L(SemanticSegmentor)(
    backbone=resnet(out_features=["res5"], norm="SyncBN"),
    sem_seg_head=L(DilatedFCNHead)(
        in_channels=L(stage_channels)(depth="${...backbone.stages.depth}", stage="res5"),
        num_classes="auto",
        in_feature="res5",
        stride=16,
        channels=256,
        dilation=6,
        norm="${..backbone.stem.norm}",
        ignore_value=255,
    ),
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
)
model.backbone.stages = L(dilated_stages)(depth=50, norm="${..stem.norm}", last=1)
