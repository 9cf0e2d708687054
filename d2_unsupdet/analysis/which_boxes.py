"""Which boxes of a detector's answer are drawn, and ground truth for detectors without classes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.structures import Instances


def surest(instances: "Instances", threshold: float, top: int | None = None) -> "Instances":
    """Those that score enough, or the best `top` whatever they score."""
    if top is not None:
        return instances[instances.scores.argsort(descending=True)[:top]]
    return instances[instances.scores >= threshold]


def as_objects(instances: "Instances") -> "Instances":
    """Ground truth without its classes."""
    bare = type(instances)(instances.image_size, **instances.get_fields())
    bare.gt_classes = instances.gt_classes * 0
    return bare
