"""Random boxes: inside the image, whole pixels, uniform sides, none in tiny images."""

import numpy as np
import pytest

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import RandomBoxes
from d2_unsupdet.seeding import generator


def draw(width, height, seed=0, **settings):
    pixels = np.zeros((height, width, 3), np.uint8)
    return RandomBoxes(**settings)({}, pixels, generator(seed)).boxes


def test_sides_and_places_are_uniform_within_the_image():
    boxes = draw(40, 30, count=20_000)
    np.testing.assert_array_equal(boxes, np.round(boxes))
    assert boxes.min() == 0 and boxes[:, 2].max() == 40 and boxes[:, 3].max() == 30
    for side, size in ((boxes[:, 2] - boxes[:, 0], 40), (boxes[:, 3] - boxes[:, 1], 30)):
        values, counts = np.unique(side, return_counts=True)
        assert values.tolist() == list(range(8, size - 8 + 1))  # both ends included
        assert abs(counts / counts.mean() - 1).max() < 0.15
    widest = boxes[boxes[:, 2] - boxes[:, 0] == 32]  # 8 pixels to move in: 9 places
    assert set(widest[:, 0]) == set(range(9))


def test_the_generator_decides_and_nothing_else():
    np.testing.assert_array_equal(draw(99, 50, seed=3), draw(99, 50, seed=3))
    assert (draw(99, 50, seed=3) != draw(99, 50, seed=4)).any()
    assert draw(99, 50).shape == (10, 4)


@pytest.mark.parametrize("width, height, boxes", [(16, 300, 0), (300, 16, 0), (17, 17, 10)])
def test_images_of_sixteen_pixels_get_none(width, height, boxes):
    assert draw(width, height).shape == (boxes, 4)


def test_a_bad_setting_is_an_error():
    with pytest.raises(UserError, match="count=0"):
        RandomBoxes(count=0)
