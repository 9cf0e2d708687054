"""Limits and contrast against slow references."""

import cv2
import numpy as np

from d2_unsupdet.priors.ranking import ring_contrast, suppressed, within_limits
from d2_unsupdet.seeding import generator
from tests.priors.pictures import RECTANGLE, patchwork, rectangle


def random_boxes(count, width, height):
    rng = generator("ranking")
    corners = np.sort(rng.integers(0, (width, height), (count, 2, 2)), axis=1)
    corners[:, 1] += 1
    return corners.reshape(count, 4).astype(np.float32)


def slow_contrast(pixels, box):
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = box
    dx, dy = 0.15 * (x1 - x0), 0.15 * (y1 - y0)
    inner = np.zeros((height, width), bool)
    inner[int(y0) : int(y1), int(x0) : int(x1)] = True
    ring = np.zeros_like(inner)
    bottom, right = min(int(np.ceil(y1 + dy)), height), min(int(np.ceil(x1 + dx)), width)
    ring[max(int(np.floor(y0 - dy)), 0) : bottom, max(int(np.floor(x0 - dx)), 0) : right] = True
    ring &= ~inner
    return np.linalg.norm(lab[inner].mean(0) - lab[ring].mean(0)) if ring.any() else 0


def test_contrast_is_the_distance_of_two_means():
    pixels, boxes = patchwork(), random_boxes(40, 200, 160)
    boxes = np.concatenate([boxes, [[0, 0, 200, 160]]]).astype(np.float32)
    expected = [slow_contrast(pixels, box) for box in boxes]
    np.testing.assert_allclose(ring_contrast(pixels, boxes), expected, atol=2e-2, rtol=1e-3)
    exact = ring_contrast(rectangle(), np.array([RECTANGLE], np.float32))
    shifted = ring_contrast(rectangle(), np.array([RECTANGLE], np.float32) + 15)
    assert exact[0] > 2 * shifted[0]


def test_limits_are_shares_of_each_side():
    boxes = np.array([[0, 0, 6, 6], [0, 0, 5, 6], [0, 0, 75, 30], [0, 0, 76, 30], [5, 5, 5, 9]])
    keep = within_limits(boxes.astype(np.float32), (100, 100), side=(0.06, 0.75), most_aspect=None)
    assert keep.tolist() == [True, False, True, False, False]
    keep = within_limits(boxes.astype(np.float32), (100, 100), side=None, most_aspect=2.5)
    assert keep.tolist() == [True, True, False, False, False]


def test_suppression_keeps_the_better_of_two():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], np.float32)
    assert suppressed(boxes, np.array([0.1, 0.9, 0.5]), 0.6).tolist() == [1, 2]
