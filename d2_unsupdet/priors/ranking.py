"""Which of many proposals look like objects: size and shape limits, contrast, suppression.

Selective search has no score. Contrast (the colour of a box against that of a ring around it) is a
cheap one, and it does not depend on the order in which the boxes came.
"""

import cv2
import numpy as np
import torch
from torchvision.ops import nms

from d2_unsupdet.errors import UserError

RING = 0.15  # of the box's sides, on each side


def check_limits(side: tuple[float, float] | None, most_aspect: float | None) -> None:
    """Raise for limits that no box could meet."""
    if side is not None and not 0 <= side[0] < side[1]:
        raise UserError(f"side={side}: give the smallest and the largest share of the image.")
    if most_aspect is not None and most_aspect <= 1:
        raise UserError(f"most_aspect={most_aspect} must be over 1, the aspect of a square.")


def within_limits(
    boxes: np.ndarray,
    size: tuple[int, int],
    *,
    side: tuple[float, float] | None,
    most_aspect: float | None,
) -> np.ndarray:
    """Which boxes have both sides within `side` of the image's, and are not too long.

    Args:
        boxes: (n, 4) XYXY in pixels.
        size: (width, height) of the image.
        side: smallest and largest share of the image's width and height; None: any.
        most_aspect: longer side over shorter side must be below; None: any.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = (sides > 0).all(axis=1)
    if side is not None:
        share = sides / np.array(size, np.float32)
        keep &= ((share >= side[0]) & (share <= side[1])).all(axis=1)
    if most_aspect is not None:
        keep &= sides.max(axis=1, initial=0) < most_aspect * sides.min(axis=1, initial=np.inf)
    return keep


def ring_contrast(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Distance in Lab between the mean colour of a box and of the ring around it, (n,).

    Args:
        pixels: (h, w, 3) uint8 RGB.
        boxes: (n, 4) XYXY in its pixels.
    """
    height, width = pixels.shape[:2]
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    sums = cv2.integral(lab, sdepth=cv2.CV_64F)
    inner = _whole(boxes, width, height)
    margin = RING * (boxes[:, 2:] - boxes[:, :2])
    grown = np.concatenate([boxes[:, :2] - margin, boxes[:, 2:] + margin], axis=1)
    outer = _whole(grown, width, height)
    inside, outside = _sum(sums, inner), _sum(sums, outer)
    area, outer_area = _area(inner), _area(outer)
    ring = (outside - inside) / np.maximum(outer_area - area, 1)[:, None]
    distance = np.linalg.norm(inside / area[:, None] - ring, axis=1)
    return np.where(outer_area > area, distance, 0)  # the whole image has no ring


def suppressed(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the boxes that non-maximum suppression leaves, best first."""
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores.astype(np.float32)), threshold)
    return kept.numpy()


def _whole(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Whole pixels within the image, at least one of them."""
    limits = np.array([width, height])
    start = np.clip(np.floor(boxes[:, :2]).astype(int), 0, limits - 1)
    end = np.clip(np.ceil(boxes[:, 2:]).astype(int), start + 1, limits)
    return np.concatenate([start, end], axis=1)


def _sum(sums: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = boxes.T
    return sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
