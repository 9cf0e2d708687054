"""How JoinDet's priors change at a refresh: Box Smooth, and the two rules it is compared with.

Box Smooth clusters old and new boxes as Weighted Boxes Fusion does (arXiv:1910.13302) and gives old
ones the weight mu, new ones 1 - mu. The surprise: an old box that nothing meets stays for ever, so
the number of boxes is capped.
"""

from typing import Protocol

import numpy as np
import torch
from torchvision.ops import nms

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found


class PriorUpdate(Protocol):
    """The next boxes of one image from the previous and the current ones; at most `most`."""

    most: int

    def __call__(self, previous: Found, current: Found) -> Found: ...


class BoxSmooth:
    """JoinDet's momentum update.

    >>> update = BoxSmooth()
    >>> boxes = update(previous, current)

    Args:
        momentum: mu, the weight of previous boxes; 1 changes no place, 0 takes the current ones.
        iou: a box joins the cluster whose fused box it overlaps most, if by more than this.
        most: boxes kept, by score.
        decay: factor on the score of a previous box that no current box meets; 1 lets it stay.
    """

    def __init__(
        self, *, momentum: float = 0.45, iou: float = 0.55, most: int = 30, decay: float = 1.0
    ) -> None:
        for name, value in (("momentum", momentum), ("iou", iou), ("decay", decay)):
            if not 0 <= value <= 1:
                raise UserError(f"BoxSmooth: {name} is {value}; it must be from 0 to 1.")
        self.momentum, self.iou, self.most, self.decay = momentum, iou, most, decay

    def __call__(self, previous: Found, current: Found) -> Found:
        union = _joined(previous, current)
        old = np.arange(len(union)) < len(previous)
        share = np.where(old, self.momentum, 1 - self.momentum)
        order = np.argsort(-share * union.scores, kind="stable")
        union, old, share = union.take(order), old[order], share[order]
        boxes, member = _clusters(union, share, self.iou)

        count = len(boxes)
        first = np.unique(member, return_index=True)[1]  # the box that opened each cluster
        sizes = np.bincount(member, minlength=count)
        scores = np.bincount(member, union.scores, minlength=count) / np.maximum(sizes, 1)
        olds = np.bincount(member, old, minlength=count)
        scores[olds == sizes] *= self.decay
        # At the ends of momentum's range the weightless side alone is no box.
        kept = (olds > 0) if self.momentum == 1 else (olds < sizes) if self.momentum == 0 else None
        kinds = None if union.kinds is None else union.kinds[first]
        fused = Found(boxes.astype(np.float32), scores.astype(np.float32), kinds)
        # Of equal scores, what was seen again is better than what was not.
        ranking = np.lexsort((olds == sizes, -fused.scores))
        if kept is not None:
            ranking = ranking[kept[ranking]]
        return fused.take(ranking[: self.most])


class DirectUpdate:
    """The current boxes instead of the previous ones.

    Args:
        most: boxes kept, by score.
    """

    def __init__(self, *, most: int = 30) -> None:
        self.most = most

    def __call__(self, previous: Found, current: Found) -> Found:
        return current.take(np.argsort(-current.scores, kind="stable")[: self.most])


class NmsUpdate:
    """Current boxes take the place of the previous ones that they overlap; the others stay.

    Args:
        iou: overlap above which the weaker of two boxes goes, a previous one in any case.
        most: boxes kept, by score.
    """

    def __init__(self, *, iou: float = 0.55, most: int = 30) -> None:
        self.iou, self.most = iou, most

    def __call__(self, previous: Found, current: Found) -> Found:
        union = _joined(current, previous)
        if not len(union):
            return union
        strength = union.scores / max(float(union.scores.max()), 1e-12)
        strength[: len(current)] += 2
        left = nms(
            torch.from_numpy(union.boxes).double(), torch.from_numpy(strength).double(), self.iou
        )
        found = union.take(left.numpy())
        return found.take(np.argsort(-found.scores, kind="stable")[: self.most])


def _joined(first: Found, second: Found) -> Found:
    kinds = None
    if first.kinds is not None or second.kinds is not None:
        kinds = np.concatenate([_kinds(first), _kinds(second)])
    return Found(
        np.concatenate([first.boxes, second.boxes]).astype(np.float32),
        np.concatenate([first.scores, second.scores]).astype(np.float32),
        kinds,
    )


def _kinds(found: Found) -> np.ndarray:
    return np.zeros(len(found), np.uint8) if found.kinds is None else found.kinds


def _clusters(union: Found, share: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Fused boxes (k, 4), in order of appearance, and the cluster (n,) of each box."""
    count = len(union)
    boxes, scores = union.boxes.astype(np.float64), union.scores.astype(np.float64)
    # A cluster without weight falls back to its scores, and without scores to a plain mean.
    weights = np.stack([share * scores, scores, np.ones(count)], 1)
    sums = np.zeros((count, 3, 4))
    totals = np.zeros((count, 3))
    fused = np.zeros((count, 4))
    member = np.zeros(count, np.int64)
    clusters = 0
    for index in range(count):
        best, overlap = 0, -1.0
        if clusters:
            ious = _iou(boxes[index], fused[:clusters])
            best = int(ious.argmax())
            overlap = ious[best]
        if overlap <= threshold:
            best, clusters = clusters, clusters + 1
        sums[best] += weights[index][:, None] * boxes[index]
        totals[best] += weights[index]
        level = int(np.argmax(totals[best] > 0))
        fused[best] = sums[best, level] / totals[best, level]
        member[index] = best
    return fused[:clusters], member


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.maximum(high - low, 0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return common / np.maximum(areas - common, 1e-12)
