"""The ten regions of a Siamese DETR pair: what both views share, and nine boxes inside it."""

from dataclasses import dataclass

import numpy as np

from d2_unsupdet.data.siamese_views import Rectangle, area


@dataclass(frozen=True)
class SharedBoxes:
    """Chooses boxes inside what two views share.

    >>> boxes = SharedBoxes()(rng, proposals_xyxy, pair.shared)        # (10, 4), or None

    Args:
        count: boxes a pair, the shared rectangle itself (always the first) among them.
        least_area: share of the shared rectangle below which a box is left out.
        jitter: share of its sides by which a repeated box moves at most. Boxes are repeated where
            fewer are left than are wanted.
    """

    count: int = 10
    least_area: float = 0.05
    jitter: float = 0.1

    def __call__(
        self, rng: np.random.Generator, boxes_xyxy: np.ndarray, shared: Rectangle
    ) -> np.ndarray | None:
        """The shared rectangle and the first boxes that it holds, cut to it; None: it holds none.

        Args:
            rng: of the repeated boxes.
            boxes_xyxy: (n, 4), best first, in the frame of the rectangle.
            shared: what both views show.
        """
        boxes = cut(boxes_xyxy, shared)
        sides = boxes[:, 2:] - boxes[:, :2]
        large = sides.prod(1) >= self.least_area * area(shared)
        boxes = boxes[(sides > 0).all(1) & large][: self.count - 1]
        if not len(boxes):
            return None
        missing = self.count - 1 - len(boxes)
        again = boxes[np.arange(missing) % len(boxes)]
        return np.concatenate([[shared], boxes, self._moved(rng, again, shared)])

    def _moved(self, rng: np.random.Generator, boxes: np.ndarray, shared: Rectangle) -> np.ndarray:
        # The law by which queries are shaken too: a sigmoid of a normal number, see jitter_boxes.
        shares = self.jitter * (2 / (1 + np.exp(-rng.normal(size=boxes.shape))) - 1)
        return cut(boxes + shares * np.tile(boxes[:, 2:] - boxes[:, :2], 2), shared)


def cut(boxes_xyxy: np.ndarray, shared: Rectangle) -> np.ndarray:
    """What lies in the rectangle; it ends a pixel early, as in the official code."""
    left, top, right, bottom = shared
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    return boxes.clip([left, top] * 2, np.maximum([right - 1, bottom - 1] * 2, [left, top] * 2))


def random_boxes(
    rng: np.random.Generator, shared: Rectangle, *, throws: int = 100, max_aspect: float = 8
) -> np.ndarray:
    """Boxes with any two points of the rectangle as corners, long and narrow ones left out.

    The paper's ablation. Both views show the shared rectangle at nearly one scale, so that one
    aspect stands for both.
    """
    low, high = np.array(shared[:2]), np.array(shared[2:])
    points = low + rng.random((throws, 2, 2)) * (high - low)
    boxes = np.concatenate([points.min(1), points.max(1)], axis=1)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    return boxes[(width <= max_aspect * height) & (height <= max_aspect * width)]
