# From the detector that will be finetuned to the one that is pretrained: one class, "object".
from detectron2.config import LazyCall as L

from d2_unsupdet.detectors import (
    BestClass,
    FocalLoss,
    HungarianAssigner,
    SoftmaxLoss,
    SuppressedPairs,
)


def class_agnostic(detector, *, softmax):
    """The detector with one class and the costs and weights that all of the papers have.

    Args:
        detector: a `model` of configs/common/models; it is changed.
        softmax: object against "no object" (weights 1, 5, 2); else one sigmoid (2, 5, 2).
    """
    heads, criterion = detector.heads, detector.criterion
    heads.num_classes = 1
    heads.background = softmax
    heads.prior = None if softmax else 0.01
    weight = 1.0 if softmax else 2.0
    criterion.weights = dict(ce=weight, bbox=5.0, giou=2.0)
    criterion.classification = (
        L(SoftmaxLoss)(no_object=0.1) if softmax else L(FocalLoss)(alpha=0.25, gamma=2.0)
    )
    hungarian = L(HungarianAssigner)(
        classification="softmax" if softmax else "focal",  # log_softmax: -log p, as papers print
        class_cost=weight,
        box_cost=5.0,
        giou_cost=2.0,
    )
    if criterion.assigner._target_ == hungarian._target_:  # overlap assignment has no class cost
        criterion.assigner = hungarian
    if softmax and detector.postprocess._target_ == SuppressedPairs:
        detector.postprocess.softmax = True  # overlap assignment teaches duplicates
    elif softmax:
        detector.postprocess = L(BestClass)()
    return detector


def with_backbone(detector, freeze_at):
    """One setting for a frozen (5), partly frozen (1 to 4) or trained (0) ResNet."""
    detector.backbone.freeze_at = freeze_at
    return detector
