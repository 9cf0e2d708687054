"""Images for the tests of box sources: known rectangles on a ground that is not quite flat."""

import numpy as np

from d2_unsupdet.seeding import generator

RECTANGLE = (60, 50, 180, 150)


def rectangle(width=300, height=200, box=RECTANGLE):
    pixels = np.full((height, width, 3), 90, np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = (200, 30, 40)
    return pixels


def patchwork(seed=0, width=200, height=160):
    """Coloured cells with noise: many regions, so that an order has something to be about."""
    rng = generator("patchwork", seed)
    cells = rng.integers(0, 256, (5, 6, 3))
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 6 // width
    noise = rng.integers(-8, 9, (height, width, 3))
    return np.clip(cells[rows][:, columns] + noise, 0, 255).astype(np.uint8)


def iou(box, boxes):
    corners = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    inner = np.clip(corners[1] - corners[0], 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return inner / (areas + (box[2] - box[0]) * (box[3] - box[1]) - inner)
