# A ResNet and a RetinaNet that two CPU cores train in minutes: half of ResNet-18's width, one block
# a stage (1.2 M parameters), 96-pixel images.
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import RetinaNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

from d2_unsupdet.pretext.moco_v2 import IMAGENET_MEAN, IMAGENET_STD, MoCoV2

WIDTHS = (32, 64, 128, 256)  # res2 .. res5


def resnet(out_features):
    stages = [
        L(ResNet.make_stage)(
            block_class=BasicBlock,
            num_blocks=1,
            in_channels=narrow,
            out_channels=wide,
            stride_per_block=[1 if level == 0 else 2],
            norm="BN",
        )
        for level, (narrow, wide) in enumerate(zip((WIDTHS[0], *WIDTHS[:3]), WIDTHS, strict=True))
    ]
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=WIDTHS[0], norm="BN"),
        stages=stages,
        out_features=out_features,
    )


moco = L(MoCoV2)(
    backbone=resnet(["res5"]),
    queue_size=1024,  # below the 2,000 images, so that few negatives are the image itself
    momentum=0.99,  # 0.999 hardly moves in a few hundred steps
)

CHANNELS = 96
retinanet = L(RetinaNet)(
    backbone=L(FPN)(
        bottom_up=resnet(["res3", "res4", "res5"]),
        in_features=["res3", "res4", "res5"],
        out_channels=CHANNELS,
        norm="BN",
    ),
    head=L(RetinaNetHead)(
        input_shape=[L(ShapeSpec)(channels=CHANNELS)] * 3,
        num_classes="${..num_classes}",
        conv_dims=[CHANNELS, CHANNELS],
        prior_prob=0.01,
        num_anchors=6,
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        # Two sizes a level, 12 to 68 pixels; objects have 3-60 % of 96 pixels.
        sizes=[[s, s * 2**0.5] for s in (12, 24, 48)],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=L(Matcher)(
        thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True
    ),
    head_in_features=["p3", "p4", "p5"],
    num_classes="auto",
    pixel_mean=list(IMAGENET_MEAN),
    pixel_std=list(IMAGENET_STD),
    input_format="RGB",
)
