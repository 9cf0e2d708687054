"""Faster R-CNN C4 with the extra norm in the head: MoCo's transfer protocol."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from d2_unsupdet.detectors.rcnn import Res5ROIHeadsExtraNorm, res5_stage, stage_channels

from .resnet import pixel_mean, pixel_std, resnet
from .rpn import rpn

# `model.backbone.stages.depth` and `model.backbone.stem.norm` rule the heads as well.
model = L(GeneralizedRCNN)(
    backbone=resnet(out_features=["res4"], norm="SyncBN"),
    proposal_generator=rpn(
        in_features=["res4"],
        in_channels=L(stage_channels)(depth="${....backbone.stages.depth}", stage="res4"),
        sizes=[[32, 64, 128, 256, 512]],
        strides=[16],
        pre_nms_topk=[12000, 6000],
        post_nms_topk=[2000, 1000],
    ),
    roi_heads=L(Res5ROIHeadsExtraNorm)(
        num_classes="auto",
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        in_features=["res4"],
        pooler=L(ROIPooler)(
            output_size=14, scales=[1.0 / 16], sampling_ratio=0, pooler_type="ROIAlignV2"
        ),
        res5=L(res5_stage)(depth="${...backbone.stages.depth}", norm="${...backbone.stem.norm}"),
        norm="${..backbone.stem.norm}",
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(
                channels=L(stage_channels)(depth="${.....backbone.stages.depth}", stage="res5"),
                height=1,
                width=1,
            ),
            box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
            num_classes="${..num_classes}",
            test_score_thresh=0.05,
        ),
    ),
    pixel_mean=pixel_mean,
    pixel_std=pixel_std,
    input_format="RGB",
)
