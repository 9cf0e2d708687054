"""Small pictures of boxes, whose features box pretexts read or predict (UP-DETR, DETReg, ...)."""

from collections.abc import Sequence

import cv2
import numpy as np

from d2_unsupdet.data.photometric import Operation, Photometric
from d2_unsupdet.data.views import Crop


def whole_edges(boxes_xyxy: np.ndarray, width: int, height: int) -> np.ndarray:
    """Boxes (n, 4) with the nearest whole edges in the image, at least a pixel wide and high."""
    size = np.array([width, height])
    low = np.clip(np.rint(boxes_xyxy[:, :2]), 0, size - 1)
    high = np.clip(np.rint(boxes_xyxy[:, 2:]), low + 1, size)
    return np.concatenate([low, high], axis=1).astype(np.int64)


def region_crops(
    pixels: np.ndarray,
    boxes_xyxy: np.ndarray,
    *,
    size: int,
    operations: Sequence[Sequence[Operation]],
) -> np.ndarray:
    """Each box as a square of `size` pixels, whatever its aspect: uint8 (n, 3, size, size).

    Args:
        pixels: uint8 RGB (height, width, 3).
        boxes_xyxy: (n, 4) in those pixels.
        size: side of a crop.
        operations: the colours of each crop, see `Photometric.draw`.
    """
    height, width = pixels.shape[:2]
    edges = whole_edges(boxes_xyxy, width, height).tolist()
    crops = np.empty((len(edges), 3, size, size), np.uint8)
    for planes, (left, top, right, bottom), steps in zip(crops, edges, operations, strict=True):
        crop = Crop(width, height, left, top, right, bottom, size).apply_image(pixels)
        cv2.split(Photometric.apply(crop, steps), list(planes))  # in place, as PairedViewMapper
    return crops
