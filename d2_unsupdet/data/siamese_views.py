"""Two overlapping views of an image (Siamese DETR, CVPR 2023), as pure geometry.

Views lie on the main diagonal of an outer rectangle, share one aspect and a wanted overlap. Their
edges are rounded to whole pixels first, so that what a box shows is exact in both views.
"""

import math
from dataclasses import dataclass

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, TransformList

from d2_unsupdet.data.views import RandomCrop
from d2_unsupdet.errors import UserError

Rectangle = tuple[int, int, int, int]


def shared_side(iou: float) -> float:
    """Side of the part that two views share, as a share of the outer rectangle's side.

    Each view is then (1 + t) / 2 as wide as the outer rectangle: IoU = 2 t^2 / (1 + 2 t - t^2).
    """
    return (iou + math.sqrt(2 * iou**2 + 2 * iou)) / (2 + iou)


@dataclass(frozen=True)
class ViewPair:
    """Two rectangles of an image that are shown at one size.

    Args:
        views: (left, top, right, bottom) of either view, in pixels of the image.
        shared: what both show.
        outer: the rectangle that they were drawn in; its size is the size of both views.
    """

    views: tuple[Rectangle, Rectangle]
    shared: Rectangle
    outer: Rectangle

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of both views in their own pixels."""
        left, top, right, bottom = self.outer
        return bottom - top, right - left

    @property
    def iou(self) -> float:
        """Of the two rectangles."""
        first, second, shared = map(area, (*self.views, self.shared))
        return shared / (first + second - shared)

    def transforms(self, width: int, height: int) -> tuple[TransformList, TransformList]:
        """What makes each view out of an image of this size, pixels and boxes alike."""
        first, second = (
            TransformList(
                [
                    CropTransform(left, top, right - left, bottom - top, width, height),
                    T.ResizeTransform(bottom - top, right - left, *self.size),
                ]
            )
            for left, top, right, bottom in self.views
        )
        return first, second


def area(rectangle: Rectangle) -> int:
    """In pixels."""
    left, top, right, bottom = rectangle
    return (right - left) * (bottom - top)


class OverlappingViews:
    """The law of the two rectangles.

    >>> pair = OverlappingViews(iou=0.5).draw(np.random.default_rng(0), 640, 480)
    >>> first, second = pair.transforms(640, 480)
    >>> second.apply_box(first.inverse().apply_box(boxes_xyxy))       # from view 1 to view 2

    Args:
        iou: of the two views before they shrink; with `shrink` the least one, up to rounding.
        scale: least and most share of the image's area that the outer rectangle covers.
        ratio: its least and most width / height.
        shrink: move each view's outer corner inwards by a random share of the way to the part
            that both show, which stays. The median IoU is then 0.67 for `iou=0.5`.
    """

    def __init__(
        self,
        *,
        iou: float = 0.5,
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        shrink: bool = True,
    ) -> None:
        if not 0 < iou < 1:
            raise UserError(f"iou={iou} of the two views has to lie between 0 and 1.")
        self.side, self.shrink = shared_side(iou), shrink
        self.law = RandomCrop(size=1, scale=(scale[0], scale[1]), ratio=(ratio[0], ratio[1]))

    def draw(self, rng: np.random.Generator, width: int, height: int) -> ViewPair:
        outer = self.law.draw(rng, width, height).rectangle
        moves, swapped = rng.random(2) * self.shrink, rng.random() < 0.5
        corner, end = np.array(outer[:2]), np.array(outer[2:])
        margin = (1 - self.side) / 2 * (end - corner)
        low = np.rint(corner + margin).astype(int)
        high = np.maximum(np.rint(end - margin).astype(int), low + 1)
        start = np.minimum(np.rint(corner + moves[0] * margin).astype(int), low)
        stop = np.maximum(np.rint(end - moves[1] * margin).astype(int), high)
        views = _rectangle(start, high), _rectangle(low, stop)
        return ViewPair(views[::-1] if swapped else views, _rectangle(low, high), outer)


def _rectangle(corner: np.ndarray, end: np.ndarray) -> Rectangle:
    return int(corner[0]), int(corner[1]), int(end[0]), int(end[1])
