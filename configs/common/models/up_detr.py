"""UP-DETR (arXiv:2011.09094) on any detector: `model = up_detr(detector)`."""

from detectron2.config import LazyCall as L

from d2_unsupdet.pretext import UPDETR

from .box_pretext import class_agnostic, with_backbone


def up_detr(detector, *, freeze_at=5):
    """`freeze_at=0` trains the backbone too: without a file of starting weights, for example."""
    detector = class_agnostic(with_backbone(detector, freeze_at), softmax=True)
    if "proposals" in detector:
        detector.proposals.teaches_encoder = False  # random boxes say nothing about objectness
    return L(UPDETR)(
        detector=detector,
        levels="${.detector.in_features}",
        query_dropout=0.1,
        feature_weight=1.0,
        match_within_group=False,
        label=0,
        denoising=True,
    )
