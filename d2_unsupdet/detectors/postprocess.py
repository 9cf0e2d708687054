"""From the last layer's logits and boxes to an image's detections."""

from collections.abc import Sequence

import torch
from torch import Tensor

from d2_unsupdet.detectors.boxes import full_precision, to_xyxy
from d2_unsupdet.detectors.structures import Detections
from d2_unsupdet.detectors.suppression import grouped_nms
from d2_unsupdet.detectors.transfer import to_device

Sizes = Sequence[tuple[int, int]]


class BestClass:
    """DETR: every query with its best class, "no object" set aside."""

    def __call__(self, logits: Tensor, boxes: Tensor, sizes: Sizes) -> list[Detections]:
        scores, labels = full_precision(logits).softmax(-1)[..., :-1].max(-1)
        pixels = _pixels(boxes, sizes)
        return [Detections(*parts) for parts in zip(scores, labels, pixels, strict=True)]


class TopPairs:
    """The best (query, class) pairs; a query may answer twice.

    Args:
        detections: most an image.
    """

    def __init__(self, *, detections: int = 100) -> None:
        self.detections = detections

    def __call__(self, logits: Tensor, boxes: Tensor, sizes: Sizes) -> list[Detections]:
        return [
            Detections(*parts)
            for parts in zip(*best_pairs(logits, boxes, sizes, self.detections), strict=True)
        ]


class SuppressedPairs:
    """DETA: the best pairs, without those that lie on a better one of the same class.

    Args:
        candidates: pairs that are looked at.
        threshold: IoU above which the lower-scored of two pairs of a class goes.
        detections: most an image.
        softmax: scores of heads with a background class, as pretexts may have them.
    """

    def __init__(
        self,
        *,
        candidates: int = 10000,
        threshold: float = 0.7,
        detections: int = 100,
        softmax: bool = False,
    ) -> None:
        self.candidates, self.threshold, self.detections = candidates, threshold, detections
        self.softmax = softmax

    def __call__(self, logits: Tensor, boxes: Tensor, sizes: Sizes) -> list[Detections]:
        scores, labels, pixels = best_pairs(
            logits, boxes, sizes, self.candidates, softmax=self.softmax
        )
        result = []
        for s, c, b in zip(scores, labels, pixels, strict=True):
            # Classes are told apart by an offset: with many of them float32 would round the boxes.
            kept = grouped_nms(b.double(), s.double(), c, self.threshold)[: self.detections]
            result.append(Detections(s[kept], c[kept], b[kept]))
        return result


def best_pairs(
    logits: Tensor, boxes: Tensor, sizes: Sizes, count: int, *, softmax: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels (B, n) and boxes (B, n, 4) of the best (query, class) pairs, best first."""
    logits = full_precision(logits)
    scores = logits.softmax(-1)[..., :-1] if softmax else logits.sigmoid()
    classes = scores.shape[-1]
    scores, pairs = scores.flatten(1).topk(min(count, scores[0].numel()), dim=1)
    query = torch.div(pairs, classes, rounding_mode="floor")
    pixels = _pixels(boxes, sizes).gather(1, query[..., None].expand(-1, -1, 4))
    return scores, pairs % classes, pixels


def _pixels(boxes: Tensor, sizes: Sizes) -> Tensor:
    scale = to_device([(w, h, w, h) for h, w in sizes], boxes.device)
    return to_xyxy(boxes) * scale[:, None]
