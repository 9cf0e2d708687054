"""What a box source answers, and what every box source is: a function of record, pixels and rng.

A `Found` is in pixels of the image that was given, or normalised (0 to 1) if it comes straight out
of a `PriorStore`; `scaled` leads from the second to the first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Found:
    """Boxes of one image, best first.

    Args:
        boxes: (n, 4) float32, XYXY.
        scores: (n,) float32. With `orders`: the score of the first, second, ... place.
        kinds: (n,) uint8, only of sources that tell kinds of boxes apart (region, instance).
        orders: (k, m) integers, only of sources whose order is drawn: each row is one draw, as
            indices into `boxes`, best first.
    """

    boxes: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray | None = None
    orders: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def scaled(self, width: float, height: float) -> "Found":
        """The same boxes times (width, height): normalised ones become pixels."""
        sides = np.array([width, height, width, height], np.float32)
        return replace(self, boxes=self.boxes * sides)

    def take(self, chosen: np.ndarray) -> "Found":
        """Some of the boxes, by index or mask, each with its own score; drawn orders are left."""
        kinds = None if self.kinds is None else self.kinds[chosen]
        return Found(self.boxes[chosen], self.scores[chosen], kinds)

    def drawn(self, rng: np.random.Generator) -> "Found":
        """One of the orders, drawn with `rng`; without orders the boxes as they are."""
        if self.orders is None or not len(self.orders):
            return replace(self, orders=None)
        order = self.orders[int(rng.integers(len(self.orders)))].astype(np.int64)
        kinds = None if self.kinds is None else self.kinds[order]
        return Found(self.boxes[order], self.scores[: len(order)], kinds)


class BoxSource(Protocol):
    """Anything that finds boxes in an image without labels."""

    def __call__(
        self, record: Mapping[str, Any], pixels: np.ndarray, rng: np.random.Generator
    ) -> Found:
        """Boxes in pixels of the image.

        Args:
            record: the image's record of the catalog (`file_name`, `image_id`, ...).
            pixels: (h, w, 3) uint8 RGB, upright, in the size of the file.
            rng: all that may be random; made of the seed and the image alone.
        """


def nothing(orders: int | None = None, *, kinds: bool = False) -> Found:
    """The answer for an image without boxes."""
    none = np.zeros(0, np.float32)
    drawn = None if orders is None else np.zeros((orders, 0), np.int64)
    return Found(none.reshape(0, 4), none, np.zeros(0, np.uint8) if kinds else None, drawn)


def rank_scores(count: int) -> np.ndarray:
    """1, 1/2, 1/3, ...: the rank as a score that can be compared between images."""
    return (1 / np.arange(1, count + 1)).astype(np.float32)
