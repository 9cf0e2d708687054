"""Polygons of a mask rasterise back to that mask."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from d2_unsupdet.data.polygons import mask_to_polygons


def rasterise(polygons, shape):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *shape))).astype(bool)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(6))
def test_random_masks_come_back_exactly(density, seed):
    mask = np.random.RandomState(seed).rand(13, 17) < density
    np.testing.assert_array_equal(rasterise(mask_to_polygons(mask), mask.shape), mask)


def test_nested_rings_come_back_exactly():
    y, x = np.mgrid[:61, :61] - 30
    radius = np.hypot(y, x)
    mask = (radius < 28) & (radius > 22) | (radius < 15) & (radius > 8) | (radius < 3)
    polygons = mask_to_polygons(mask)
    assert len(polygons) == 3
    np.testing.assert_array_equal(rasterise(polygons, mask.shape), mask)


def test_square_is_four_corners_at_pixel_edges():
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:5] = True
    corners = np.array(mask_to_polygons(mask, offset=(10, 20))).reshape(-1, 2)
    assert sorted(map(tuple, corners)) == [(22, 11), (22, 13), (25, 11), (25, 13)]


def test_empty_mask_has_no_polygon():
    assert mask_to_polygons(np.zeros((4, 4), bool)) == []
