"""Boxes of mask components and the foreground share of boxes, against slow references."""

import numpy as np
import pytest
from scipy import ndimage

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.region_boxes import CellMask, foreground_share, region_boxes


def cells(*rows):
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_every_component_has_its_rectangle_with_the_last_cell_included():
    mask = cells("##...", "#...#", "...##", ".....")
    boxes = region_boxes(CellMask(mask, cell=(16, 8), size=(64, 40)))
    np.testing.assert_array_equal(boxes, [[0, 0, 16, 32], [24, 16, 40, 48]])


def test_boxes_end_where_the_image_ends():
    mask = cells("...", ".##", ".##")
    boxes = region_boxes(CellMask(mask, cell=(16, 16), size=(37, 41)))  # cells reach 48
    np.testing.assert_array_equal(boxes, [[16, 16, 41, 37]])


def test_connectivity_and_least_size():
    mask = CellMask(cells("#..#", ".#..", "...."), cell=(1, 1), size=(3, 4))
    assert len(region_boxes(mask)) == 3
    assert len(region_boxes(mask, connectivity=8)) == 2
    assert len(region_boxes(mask, connectivity=8, least_cells=2)) == 1
    with pytest.raises(UserError, match="choose 4 or 8"):
        region_boxes(mask, connectivity=6)


def test_no_foreground_no_boxes():
    mask = CellMask(np.zeros((4, 5), bool), cell=(8, 8), size=(32, 40))
    assert region_boxes(mask).shape == (0, 4)
    assert foreground_share(np.zeros((0, 4)), mask).shape == (0,)


def test_components_are_scipys():
    draw = np.random.default_rng(0)
    for _ in range(20):
        mask = draw.random((9, 13)) < 0.4
        labels, _ = ndimage.label(mask)
        expected = sorted(
            (c.start * 2.0, r.start * 3.0, c.stop * 2.0, r.stop * 3.0)
            for r, c in ndimage.find_objects(labels)
        )
        found = region_boxes(CellMask(mask, cell=(3, 2), size=(27, 26)))
        assert sorted(map(tuple, found)) == expected
        areas = [np.count_nonzero(labels == label) for label in range(1, labels.max() + 1)]
        assert len(found) == len(areas)


def test_share_is_that_of_counting_cell_centres():
    draw = np.random.default_rng(1)
    foreground = draw.random((7, 11)) < 0.5
    mask = CellMask(foreground, cell=(16.0, 12.0), size=(110, 130))
    corners = draw.uniform([-5, -5, -5, -5], [135, 115, 135, 115], (200, 4))
    one, other = corners[:, :2], corners[:, 2:]
    boxes = np.concatenate([np.minimum(one, other), np.maximum(one, other)], 1)
    for box, share in zip(boxes, foreground_share(boxes, mask), strict=True):
        columns = [c for c in range(11) if box[0] <= (c + 0.5) * 12 < box[2]]
        rows = [r for r in range(7) if box[1] <= (r + 0.5) * 16 < box[3]]
        columns = columns or [min(max(int((box[0] + box[2]) // 24), 0), 10)]
        rows = rows or [min(max(int((box[1] + box[3]) // 32), 0), 6)]
        expected = np.mean([foreground[r, c] for r in rows for c in columns])
        assert share == pytest.approx(expected)


def test_a_box_between_cell_centres_is_judged_by_its_own_cell():
    mask = CellMask(cells("#.", ".."), cell=(10, 10), size=(20, 20))
    boxes = np.array([[6.0, 6.0, 9.0, 9.0], [11.0, 1.0, 14.0, 4.0], [5.0, 5.0, 5.0, 5.0]])
    np.testing.assert_array_equal(foreground_share(boxes, mask), [1, 0, 1])
