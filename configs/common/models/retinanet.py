"""RetinaNet FPN with norm in backbone and FPN; towers without norm."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

from d2_unsupdet.detectors.rcnn import stage_channels

from .resnet import pixel_mean, pixel_std, resnet

model = L(RetinaNet)(
    backbone=L(FPN)(
        bottom_up=resnet(out_features=["res3", "res4", "res5"], norm="SyncBN"),
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        norm="${.bottom_up.stem.norm}",
        top_block=L(LastLevelP6P7)(
            in_channels=L(stage_channels)(depth="${...bottom_up.stages.depth}", stage="res5"),
            out_channels="${..out_channels}",
        ),
    ),
    head=L(RetinaNetHead)(
        input_shape=[
            L(ShapeSpec)(channels="${....backbone.out_channels}")
            for _ in range(5)  # p3..p7
        ],
        num_classes="${..num_classes}",
        conv_dims=[256, 256, 256, 256],
        prior_prob=0.01,
        num_anchors=9,  # 3 sizes x 3 ratios
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[x * 2 ** (i / 3) for i in range(3)] for x in [32, 64, 128, 256, 512]],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=L(Matcher)(
        thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True
    ),
    num_classes="auto",
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    focal_loss_alpha=0.25,
    focal_loss_gamma=2.0,
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
    input_format="RGB",
)
