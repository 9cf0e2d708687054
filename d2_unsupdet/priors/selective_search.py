"""Selective search through OpenCV contrib, with orders that can be repeated.

Its set of boxes is the same at every call, but the order is drawn with the C library's `rand()`
times a level of the merging, and cannot be rebuilt from the boxes. So OpenCV draws it, seeded.
"""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import cv2
import numpy as np

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.c_random import require_contrib, seed_c_library, seed_reaches_opencv
from d2_unsupdet.priors.found import Found, nothing, rank_scores
from d2_unsupdet.priors.ranking import check_limits, ring_contrast, suppressed, within_limits

log = logging.getLogger(__name__)

Ranked = Literal["drawn", "shuffled", "contrast"]
RANKED = ("drawn", "shuffled", "contrast")


class SelectiveSearch:
    """Boxes of a hierarchical grouping; the papers take the first 30 as they come.

    "Selective Search for Object Recognition", IJCV 2013; as in "DETReg", arXiv 2106.04550.

    Example:
        >>> source = SelectiveSearch(orders=8)
        >>> source(record, pixels, rng).drawn(rng).boxes[:30]

    Args:
        size: the image is squashed to `size` x `size` first (DETReg: 128); None: as it is.
        ranked: "drawn": OpenCV's own random order, in which small regions tend to come first.
            "shuffled": every order equally likely, another method. "contrast": by the colour of a
            box against the ring around it, then suppression; nothing is random then.
        orders: how many orders to draw, for a store; each costs a whole search.
        side: smallest and largest share of the image's sides; (0.06, 0.75) helps on few data.
        most_aspect: longer over shorter side must be below; 3.5 helps on few data.
        overlap: IoU of the suppression; only "contrast".
    """

    def __init__(
        self,
        *,
        size: int | None = 128,
        ranked: Ranked = "drawn",
        orders: int = 1,
        side: tuple[float, float] | None = None,
        most_aspect: float | None = None,
        overlap: float = 0.6,
    ) -> None:
        require_contrib()
        if ranked not in RANKED:
            raise UserError(f"ranked='{ranked}' is not known; use one of {', '.join(RANKED)}.")
        if orders < 1 or (ranked == "contrast" and orders > 1):
            raise UserError(f"orders={orders} with ranked='{ranked}': contrast has one order only.")
        if size is not None and size < 16:
            raise UserError(
                f"size={size} leaves nothing to segment; use 128, or None for full size."
            )
        check_limits(side, most_aspect)
        self.size = size
        self.ranked = ranked
        self.orders = orders
        self.side = side
        self.most_aspect = most_aspect
        self.overlap = overlap

    def __call__(
        self, record: Mapping[str, Any], pixels: np.ndarray, rng: np.random.Generator
    ) -> Found:
        """All boxes, in the first order drawn; with `orders` over 1 the rows of all orders too."""
        small = pixels
        if self.size is not None:
            small = cv2.resize(pixels, (self.size, self.size))
        seeds = rng.integers(2**32, size=self.orders, dtype=np.uint64).tolist()
        draws = self._draws(small, seeds)
        draws = [self._within(draw, small) for draw in draws]
        height, width = pixels.shape[:2]
        scale = np.array([width, height], np.float32) / np.array(small.shape[1::-1], np.float32)
        boxes = np.tile(scale, 2) * draws[0]
        if self.ranked == "contrast":
            return self._by_contrast(pixels, boxes)
        if not len(boxes):
            return nothing(self.orders if self.orders > 1 else None)
        orders = _as_orders(draws) if self.orders > 1 else None
        return Found(boxes, rank_scores(len(boxes)), orders=orders)

    def _draws(self, pixels: np.ndarray, seeds: list[int]) -> list[np.ndarray]:
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(pixels[:, :, ::-1]))  # OpenCV's BGR
        search.switchToSelectiveSearchFast()
        if self.ranked == "drawn" and seed_reaches_opencv():
            return [_search(search, seed) for seed in seeds]
        found = _search(search, 0)
        if self.ranked == "drawn":
            _say_unseeded()
            return [found] * len(seeds)
        found = found[np.lexsort(found.T)]  # the set is the same at every call, the order is not
        if self.ranked == "contrast":
            return [found]
        return [np.random.default_rng(seed).permutation(found) for seed in seeds]

    def _within(self, boxes: np.ndarray, small: np.ndarray) -> np.ndarray:
        height, width = small.shape[:2]
        return boxes[
            within_limits(boxes, (width, height), side=self.side, most_aspect=self.most_aspect)
        ]

    def _by_contrast(self, pixels: np.ndarray, boxes: np.ndarray) -> Found:
        scores = ring_contrast(pixels, boxes)
        kept = suppressed(boxes, scores, self.overlap)
        return Found(boxes[kept], scores[kept].astype(np.float32))


def _search(search: Any, seed: int) -> np.ndarray:
    """One run: float32 XYXY, each box once."""
    seed_c_library(seed)
    found = np.asarray(search.process(), np.float32).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    _, first = np.unique(found, axis=0, return_index=True)
    return found[np.sort(first)]


def _as_orders(draws: list[np.ndarray]) -> np.ndarray:
    """Each draw as indices into the first one."""
    place = {box.tobytes(): i for i, box in enumerate(draws[0])}
    return np.array([[place[box.tobytes()] for box in draw] for draw in draws])


@cache
def _say_unseeded() -> None:
    log.warning(
        "The C library's rand() cannot be seeded here, so selective search is not reproducible and "
        "one order an image is kept; store its boxes once, or use ranked='contrast'."
    )
