"""From a foreground mask of cells to boxes in pixels, and back: JoinDet's region priors and the
filter of its instance priors.

Cell (row, column) covers the pixels from cell * (row, column) to cell * (row + 1, column + 1); the
image ends inside the last cells, so boxes are clipped to it.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from d2_unsupdet.errors import UserError


@dataclass(frozen=True)
class CellMask:
    """A foreground on the cells of a feature map.

    Args:
        foreground: (h, w) bool; cells of padding are not among them.
        cell: (height, width) of a cell in pixels of the image.
        size: (height, width) of the image in pixels.
    """

    foreground: np.ndarray
    cell: tuple[float, float]
    size: tuple[int, int]


def region_boxes(mask: CellMask, *, least_cells: int = 1, connectivity: int = 4) -> np.ndarray:
    """The bounding box (n, 4) XYXY of every connected component, largest component first.

    Args:
        mask: which cells are foreground.
        least_cells: smaller components are left out.
        connectivity: 4 joins cells by edges, 8 by corners too.
    """
    if connectivity not in (4, 8):
        raise UserError(f"region_boxes: connectivity is {connectivity}; choose 4 or 8.")
    _, _, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask.foreground, np.uint8), connectivity=connectivity
    )
    parts = stats[1:]  # the first is the background
    parts = parts[parts[:, cv2.CC_STAT_AREA] >= least_cells]
    parts = parts[np.argsort(-parts[:, cv2.CC_STAT_AREA], kind="stable")]
    left, top, width, height = parts[:, :4].T
    (high, wide), (rows, columns) = mask.cell, mask.size
    boxes = np.stack(
        [left * wide, top * high, (left + width) * wide, (top + height) * high], 1
    ).astype(np.float32)
    return np.minimum(boxes, np.array([columns, rows, columns, rows], np.float32))


def foreground_share(boxes: np.ndarray, mask: CellMask) -> np.ndarray:
    """The share (n,) of foreground among the cells whose centre is in each box (n, 4).

    A side between two centres counts as the one row or column of cells that holds its middle.
    """
    rows, columns = mask.foreground.shape
    # A summed-area table: four look-ups a box, however large it is.
    table = np.zeros((rows + 1, columns + 1), np.int64)
    np.cumsum(np.cumsum(mask.foreground, 0), 1, out=table[1:, 1:])
    left, right = _cells(boxes[:, 0], boxes[:, 2], mask.cell[1], columns)
    top, bottom = _cells(boxes[:, 1], boxes[:, 3], mask.cell[0], rows)
    inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return inside / ((right - left) * (bottom - top))


def _cells(
    low: np.ndarray, high: np.ndarray, cell: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last cell whose centre lies in [low, high); at least one cell."""
    first = np.ceil(low / cell - 0.5).clip(0, count).astype(np.int64)
    end = np.ceil(high / cell - 0.5).clip(0, count).astype(np.int64)
    own = np.floor((low + high) / (2 * cell)).clip(0, count - 1).astype(np.int64)
    empty = end <= first
    return np.where(empty, own, first), np.where(empty, own + 1, end)
