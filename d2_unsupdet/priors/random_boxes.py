"""Boxes anywhere: UP-DETR's query patches, and the baseline that every other source must beat."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found, nothing


class RandomBoxes:
    """Whole-pixel boxes: both sides uniform from `least_side` to the image less `least_side`.

    The top left corner is uniform over the places that keep the box inside. An image whose short
    side is at most 2 `least_side` (16 pixels) gets none: UP-DETR takes the next image instead.

    "UP-DETR: Unsupervised Pre-training for Object Detection with Transformers", arXiv 2011.09094.

    Example:
        >>> source = RandomBoxes(count=10)
        >>> source(record, pixels, rng).boxes.shape
        (10, 4)

    Args:
        count: boxes an image.
        least_side: shortest side of a box, and what it leaves of the image, in pixels.
    """

    def __init__(self, *, count: int = 10, least_side: int = 8) -> None:
        if count < 1 or least_side < 1:
            raise UserError(
                f"RandomBoxes(count={count}, least_side={least_side}): both must be at least 1."
            )
        self.count = count
        self.least_side = least_side

    def __call__(
        self, record: Mapping[str, Any], pixels: np.ndarray, rng: np.random.Generator
    ) -> Found:
        """`count` boxes, all with the same score."""
        size = np.array(pixels.shape[1::-1])
        if size.min() <= 2 * self.least_side:
            return nothing()
        sides = rng.integers(
            self.least_side, size - self.least_side, (self.count, 2), endpoint=True
        )
        corners = rng.integers(0, size - sides, endpoint=True)
        boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
        return Found(boxes, np.ones(self.count, np.float32))
