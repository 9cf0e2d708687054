"""Copies of small boxes at other places of the image (JoinDet's table 7).

Boxes that nobody drew are mostly large; the paper prints no numbers, so all of them are settings.
"""

from typing import NamedTuple

import numpy as np

from d2_unsupdet.data.region_crops import whole_edges


class Pasted(NamedTuple):
    """An image with copies; the boxes that were there come first, unchanged.

    Args:
        pixels: a changed copy of the image.
        boxes: (m, 4) XYXY in pixels.
        sources: (m,), the index of the box that each one is or is a copy of.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    sources: np.ndarray


class PasteSmallBoxes:
    """Pastes some small boxes once more, where they hide little of any box.

    >>> pixels, boxes, sources = PasteSmallBoxes(count=3)(pixels, boxes, rng)

    Args:
        count: most copies an image; a box may be copied more than once.
        small: greatest share of the image's area that a box may have to be copied.
        least_side: in pixels, below which a box is not worth a copy.
        hidden: greatest share of any other box that a copy may cover. Boxes much larger than the
            copy may contain it.
        tries: how often a place is drawn before a copy is given up.
    """

    def __init__(
        self,
        *,
        count: int = 3,
        small: float = 0.05,
        least_side: float = 8,
        hidden: float = 0.3,
        tries: int = 10,
    ) -> None:
        self.count, self.small, self.least_side = count, small, least_side
        self.hidden, self.tries = hidden, tries

    def __call__(self, pixels: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> Pasted:
        height, width = pixels.shape[:2]
        all_boxes, sources = [*boxes.astype(np.float32)], [*range(len(boxes))]
        sides = boxes[:, 2:] - boxes[:, :2]
        fits = (sides.prod(1) <= self.small * width * height) & (sides.min(1) >= self.least_side)
        candidates = np.flatnonzero(fits)
        changed = pixels.copy()
        for source in rng.choice(candidates, self.count) if len(candidates) else ():
            left, top, right, bottom = whole_edges(boxes[[source]], width, height)[0]
            place = self._place(rng, right - left, bottom - top, pixels, np.stack(all_boxes))
            if place is None:
                continue
            x, y = place
            moved = x + right - left, y + bottom - top
            # From the image as it was: a copy never shows half of another copy.
            changed[y : moved[1], x : moved[0]] = pixels[top:bottom, left:right]
            all_boxes.append(np.array([x, y, *moved], np.float32))
            sources.append(int(source))
        return Pasted(changed, np.stack(all_boxes) if all_boxes else boxes, np.array(sources, int))

    def _place(
        self, rng: np.random.Generator, w: int, h: int, pixels: np.ndarray, boxes: np.ndarray
    ) -> tuple[int, int] | None:
        for _ in range(self.tries):
            x = int(rng.integers(pixels.shape[1] - w + 1))
            y = int(rng.integers(pixels.shape[0] - h + 1))
            copy = np.array([x, y, x + w, y + h])
            low, high = np.maximum(boxes[:, :2], copy[:2]), np.minimum(boxes[:, 2:], copy[2:])
            covered = (high - low).clip(min=0).prod(1)
            if (covered <= self.hidden * (boxes[:, 2:] - boxes[:, :2]).prod(1)).all():
                return x, y
        return None
