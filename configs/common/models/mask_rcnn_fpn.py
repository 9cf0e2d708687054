"""Mask R-CNN FPN with norm in backbone and FPN; 2-fc box head and 4-conv mask head without norm."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

from .resnet import pixel_mean, pixel_std, resnet
from .rpn import rpn


def _pooler(size):
    return L(ROIPooler)(
        output_size=size,
        scales=[1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32],
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    )


def _pooled(name):
    """What the head called `name`_head receives, from its pooler and the FPN's width."""
    size = f"${{...{name}_pooler.output_size}}"
    return L(ShapeSpec)(channels="${....backbone.out_channels}", height=size, width=size)


model = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        bottom_up=resnet(out_features=["res2", "res3", "res4", "res5"], norm="SyncBN"),
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        norm="${.bottom_up.stem.norm}",
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=rpn(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        in_channels="${...backbone.out_channels}",
        sizes=[[32], [64], [128], [256], [512]],
        strides=[4, 8, 16, 32, 64],
        pre_nms_topk=[2000, 1000],  # a level
        post_nms_topk=[1000, 1000],
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes="auto",
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=_pooler(7),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=_pooled("box"), conv_dims=[], fc_dims=[1024, 1024]
        ),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels="${...box_head.fc_dims[1]}"),
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            num_classes="${..num_classes}",
            test_score_thresh=0.05,
        ),
        mask_in_features=["p2", "p3", "p4", "p5"],
        mask_pooler=_pooler(14),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=_pooled("mask"),
            num_classes="${..num_classes}",
            conv_dims=[256, 256, 256, 256, 256],  # 4 convolutions and the upsampling one
        ),
    ),
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
    input_format="RGB",
)
