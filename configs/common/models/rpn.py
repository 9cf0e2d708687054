"""Region proposals, as in Detectron2's Faster R-CNN."""

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead


def rpn(*, in_features, in_channels, sizes, strides, pre_nms_topk, post_nms_topk):
    """Sizes are one list a level; the two numbers of a topk are training and inference."""
    ratios = [0.5, 1.0, 2.0]
    return L(RPN)(
        in_features=in_features,
        head=L(StandardRPNHead)(in_channels=in_channels, num_anchors=len(sizes[0]) * len(ratios)),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=sizes, aspect_ratios=ratios, strides=strides, offset=0.0
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=pre_nms_topk,
        post_nms_topk=post_nms_topk,
        nms_thresh=0.7,
    )
