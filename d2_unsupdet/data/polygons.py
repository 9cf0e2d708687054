"""Exact polygons of a pixel mask, holes included.

Outlines run along pixel edges, so that rasterising them gives the mask back. COCO polygons know no
holes: a hole is joined to its outline by a cut that is walked in both directions (area zero).
"""

import numpy as np


def mask_to_polygons(mask: np.ndarray, offset: tuple[int, int] = (0, 0)) -> list[list[int]]:
    """COCO polygons [x0, y0, x1, y1, ...] of a bool (H, W) mask; `offset` (y, x) is added."""
    rings = _rings(np.pad(np.asarray(mask, bool), 1))
    outer = [ring for ring, is_hole in rings if not is_hole]
    for hole in (ring for ring, is_hole in rings if is_hole):
        owner = _owner(hole[0], outer)
        outer[owner] = _join(outer[owner], hole)
    return [[v for y, x in ring for v in (x + offset[1], y + offset[0])] for ring in outer]


def _rings(padded: np.ndarray) -> list[tuple[list[tuple[int, int]], bool]]:
    """Closed outlines as (y, x) corners, each with whether it surrounds a hole.

    On a grid the corners of one row, sorted, are the ends of horizontal edges two by two, and
    those of one column the ends of vertical edges: neighbours need no search.
    """
    m = padded.astype(np.int8)
    code = m[:-1, :-1] + 2 * m[:-1, 1:] + 4 * m[1:, :-1] + 8 * m[1:, 1:]
    # a corner where the outline turns has an odd number of set pixels; two diagonal ones turn twice
    copies = np.array([0, 1, 1, 0, 1, 0, 2, 1, 1, 2, 0, 1, 0, 1, 1, 0])[code]
    y, x = np.nonzero(copies)
    times = copies[y, x]
    y, x = np.repeat(y, times), np.repeat(x, times)
    beside = np.arange(len(y)) ^ 1  # sorted by row, then column
    by_column = np.lexsort((y, x))
    above = np.empty(len(y), np.int64)
    above[by_column] = by_column[np.arange(len(y)) ^ 1]
    return _walk(list(zip(y.tolist(), x.tolist(), strict=True)), beside.tolist(), above.tolist(), m)


def _walk(
    points: list[tuple[int, int]], beside: list[int], above: list[int], m: np.ndarray
) -> list[tuple[list[tuple[int, int]], bool]]:
    rings, seen = [], [False] * len(points)
    for start in range(len(points)):
        if seen[start]:
            continue
        ring, here = [], start
        while not seen[here]:
            across = beside[here]
            seen[here] = seen[across] = True
            ring += [points[here], points[across]]
            here = above[across]
        y, x = points[start]  # the top left corner of the ring: its inside lies below right
        rings.append((ring, not m[y + 1, x + 1]))
    return rings


def _owner(point: tuple[int, int], outer: list[list[tuple[int, int]]]) -> int:
    """The innermost outline around a point (even-odd, tested at the middle of its first pixel)."""
    around = [k for k, ring in enumerate(outer) if _contains(ring, point[0] + 0.5, point[1] + 0.5)]
    return min(around, key=lambda k: abs(_area(outer[k])))


def _contains(ring: list[tuple[int, int]], y: float, x: float) -> bool:
    corners = np.array(ring)
    after = np.roll(corners, -1, 0)
    vertical = corners[:, 1] == after[:, 1]
    spans = (corners[:, 0] <= y) != (after[:, 0] <= y)
    return bool((vertical & spans & (corners[:, 1] < x)).sum() % 2)


def _area(ring: list[tuple[int, int]]) -> float:
    y, x = np.array(ring).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _join(ring: list[tuple[int, int]], hole: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """One outline with a cut from the outer ring to the hole, which runs the other way round."""
    if _area(ring) * _area(hole) > 0:
        hole = hole[::-1]
    start = np.array(hole[0])
    cut = int(np.abs(np.array(ring) - start).sum(1).argmin())
    return ring[: cut + 1] + hole + [hole[0]] + ring[cut:]
