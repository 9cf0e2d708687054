"""Large-scale jitter: sizes, boxes that follow pixels, extreme shapes."""

import numpy as np
import pytest
from detectron2.data import transforms as T

from d2_unsupdet.data.scale_jitter import LargeScaleJitter
from d2_unsupdet.errors import UserError
from d2_unsupdet.seeding import seeded


def jittered(augmentation, image, seed, boxes=None):
    given = T.AugInput(image, boxes=boxes)
    with seeded("jitter", seed):
        augmentation(given)
    return given


def test_images_end_at_the_size_with_scales_of_the_whole_range():
    image = np.full((60, 100, 3), 255, np.uint8)
    shown = []
    for seed in range(200):
        found = jittered(LargeScaleJitter(size=(96, 120)), image, seed).image
        assert found.shape == (96, 120, 3)
        shown.append((found == 255).all(-1).sum(0).max() / 72)  # at scale 1 it is 120 x 72
    below = [s for s in shown if s < 1.2]  # taller ones are cut
    assert min(below) < 0.2 and 0.14 < np.mean([s < 0.6 for s in shown]) < 0.39  # 0.26
    assert 0.4 < np.mean([s > 1 for s in shown]) < 0.65  # 0.53


def test_without_padding_small_images_stay_small():
    image = np.zeros((60, 100, 3), np.uint8)
    jitter = LargeScaleJitter(size=(96, 120), scale=(0.5, 0.5), pad=False)
    assert jittered(jitter, image, 0).image.shape == (36, 60, 3)


@pytest.mark.parametrize("pad", [True, False])
def test_a_box_stays_around_its_pixels(pad):
    image = np.zeros((80, 100, 3), np.uint8)
    image[20:60, 30:70] = 255
    for seed in range(40):
        boxes = np.array([[30.0, 20, 70, 60]])
        jitter = LargeScaleJitter(size=(96, 120), scale=(0.4, 2), pad=pad)
        found = jittered(jitter, image, seed, boxes)
        rows, columns = np.nonzero(found.image[..., 0] > 160)
        height, width = found.image.shape[:2]
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert np.allclose(found.boxes[0].clip(0, [width, height] * 2), edges, atol=1.5)


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (1, 1), (4000, 30)])
def test_extreme_shapes_survive(shape):
    image = np.full((*shape, 3), 7, np.uint8)
    for seed in range(5):
        found = jittered(LargeScaleJitter(size=(96, 120)), image, seed).image
        assert found.shape == (96, 120, 3) and (found == 7).any()


def test_a_range_the_wrong_way_round_is_a_sentence():
    with pytest.raises(UserError, match="scale=\\(2.0, 0.1\\) is no range"):
        LargeScaleJitter(size=(96, 120), scale=(2.0, 0.1))
