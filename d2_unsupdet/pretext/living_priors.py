"""JoinDet's priors of one image: regions of the eigen attention, and the detector's own boxes.

The attention is that of the encoder's tokens, before the first step that of the backbone's. One
image at a time and without augmentation: the answer depends on weights and image alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2_unsupdet.detectors.boxes import full_precision, to_xyxy
from d2_unsupdet.detectors.detr import DETR
from d2_unsupdet.detectors.neck import resized_mask
from d2_unsupdet.detectors.structures import Decoded, Features
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.box_pretext import Sample
from d2_unsupdet.priors.eigen_attention import EigenAttention
from d2_unsupdet.priors.found import Found, nothing
from d2_unsupdet.priors.region_boxes import CellMask, foreground_share, region_boxes

REGION, INSTANCE, GIVEN = 0, 1, 2  # kinds in a store
SOURCES = ("regions", "instances", "predictions")


class _View(NamedTuple):
    """What the attention looks at: a map (c, h, w) in main memory, of an image (height, width)."""

    features: Tensor
    stride: int
    size: tuple[int, int]


class LivingPriors:
    """What is found in an image, as the sources of the paper's table 5.

    Args:
        sources: "regions" of the encoder's attention; "instances", the detector's foreground boxes
            that the attention confirms; "predictions", those boxes without a filter.
        attention: finds the foreground of a feature map.
        stride: of the map that is looked at, or the nearest there is.
        least_cells: smaller regions are left out.
        connectivity: 4 or 8 neighbours make a region.
        region_score: of every region.
        overlap: share of foreground cells that an instance needs.
        candidates: best boxes of a detector with sigmoid scores, which have no argmax.
        floor: least score of an instance; with softmax the argmax decides as well.
    """

    def __init__(
        self,
        *,
        sources: Sequence[str] = ("regions", "instances"),
        attention: EigenAttention | None = None,
        stride: int = 16,
        least_cells: int = 1,
        connectivity: int = 4,
        region_score: float = 1.0,
        overlap: float = 0.5,
        candidates: int = 30,
        floor: float = 0.0,
    ) -> None:
        self.sources = set(sources)
        if not self.sources or self.sources - set(SOURCES):
            raise UserError(
                f"priors.sources={list(sources)}: name one or more of {', '.join(SOURCES)}."
            )
        self.attention = EigenAttention() if attention is None else attention
        self.stride, self.least_cells, self.connectivity = stride, least_cells, connectivity
        self.region_score, self.overlap = region_score, overlap
        self.candidates, self.floor = candidates, floor

    def initial(self, detector: DETR, sample: Sample) -> Found:
        """R_0: regions of the backbone's features, normalised by the image."""
        return self.look_first(detector, sample)()

    def current(self, detector: DETR, sample: Sample, *, label: int = 0) -> Found | None:
        """R_n, normalised by the image; None where the attention has nothing to say."""
        return self.look(detector, sample, label=label)()

    @torch.no_grad()
    def look_first(self, detector: DETR, sample: Sample) -> Callable[[], Found]:
        """The forward of `initial`; what it returns does the rest, without the network."""
        images = detector.preprocess([sample])
        features = detector.features(images)
        level = self._nearest(images.tensor, [_size(m) for m in features.maps])
        view = self._view(features.maps[level][0], images.tensor, features)

        def find() -> Found:
            mask = self._foreground(view)
            return nothing() if mask is None else self._regions(mask)

        return find

    @torch.no_grad()
    def look(self, detector: DETR, sample: Sample, *, label: int = 0) -> Callable[[], Found | None]:
        """The forward of `current`, likewise."""
        images = detector.preprocess([sample])
        features = detector.features(images)
        encoded = detector.encode(features)
        view, predictions = None, None
        if self.sources & {"regions", "instances"}:
            level = self._nearest(images.tensor, encoded.shapes)
            view = self._view(encoded.level(level)[0], images.tensor, features)
        if self.sources & {"instances", "predictions"}:
            decoded = detector.decode(encoded, detector.queries(encoded))
            predictions = self._predictions(detector, decoded, label)
        return lambda: self._joined(view, predictions)

    def _joined(self, view: _View | None, predictions: Found | None) -> Found | None:
        parts = []
        mask = None if view is None else self._foreground(view)
        if mask is None and view is not None:
            return None
        if mask is not None and "regions" in self.sources:
            parts.append(self._regions(mask))
        if predictions is not None:
            if mask is not None and "predictions" not in self.sources:
                height, width = mask.size
                share = foreground_share(predictions.scaled(width, height).boxes, mask)
                predictions = predictions.take(share >= self.overlap)
            parts.append(predictions)
        return Found(*(np.concatenate(each) for each in zip(*map(_columns, parts), strict=True)))

    def _nearest(self, images: Tensor, shapes: Sequence[tuple[int, int]]) -> int:
        """The level whose stride is nearest to the one that is wanted."""
        strides = [_stride(images, shape) for shape in shapes]
        return min(range(len(strides)), key=lambda i: abs(math.log2(strides[i] / self.stride)))

    def _view(self, features: Tensor, images: Tensor, whole: Features) -> _View:
        """The cells that are no padding."""
        valid = ~resized_mask(whole.mask, _size(features))[0]
        rows, columns = (int(valid.any(dim).sum()) for dim in (1, 0))
        height, width = (int(side) for side in whole.sizes[0])
        stride = _stride(images, _size(features))
        return _View(features[:, :rows, :columns].float().cpu(), stride, (height, width))

    def _foreground(self, view: _View) -> CellMask | None:
        foreground = self.attention(view.features)
        if foreground is None:
            return None
        return CellMask(foreground, cell=(view.stride, view.stride), size=view.size)

    def _regions(self, mask: CellMask) -> Found:
        boxes = region_boxes(mask, least_cells=self.least_cells, connectivity=self.connectivity)
        height, width = mask.size
        count = len(boxes)
        scores = np.full(count, self.region_score, np.float32)
        found = Found(boxes, scores, np.full(count, REGION, np.uint8))
        return found.scaled(1 / width, 1 / height)

    def _predictions(self, detector: DETR, decoded: Decoded, label: int) -> Found:
        """Foreground boxes inside the image, best first."""
        logits = full_precision(decoded.logits[-1, 0])
        if detector.heads.background:
            chances = logits.softmax(-1)
            chosen = chances.argmax(-1) == label
            scores = chances[:, label]
        else:
            scores = logits.sigmoid()[:, label]
            chosen = torch.zeros_like(scores, dtype=torch.bool)
            chosen[scores.topk(min(self.candidates, len(scores))).indices] = True
        boxes = to_xyxy(full_precision(decoded.boxes[-1, 0])).clamp(0, 1)
        chosen &= (scores >= self.floor) & (boxes[:, 2:] > boxes[:, :2]).all(-1)
        kept = scores.masked_fill(~chosen, -1).argsort(descending=True, stable=True)
        kept = kept[: int(chosen.sum())]
        kinds = np.full(len(kept), INSTANCE, np.uint8)
        return Found(boxes[kept].cpu().numpy(), scores[kept].cpu().numpy(), kinds)


def _size(features: Tensor) -> tuple[int, int]:
    return features.shape[-2], features.shape[-1]


def _stride(images: Tensor, shape: tuple[int, int]) -> int:
    """The power of two by which the padded images became a map; the last cells are not whole."""
    return 2 ** round(math.log2(max(images.shape[-2] / shape[0], images.shape[-1] / shape[1], 1)))


def _columns(found: Found) -> tuple[np.ndarray, ...]:
    assert found.kinds is not None
    return found.boxes, found.scores, found.kinds
