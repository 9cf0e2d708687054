"""Colours of pretraining inside Detectron2's augmentation list."""

import numpy as np
from detectron2.data import transforms as T

from d2_unsupdet.data import RandomPhotometric
from d2_unsupdet.data.photometric import Photometric
from d2_unsupdet.seeding import seeded

IMAGE = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def augmented(*seed):
    augmentation = T.AugmentationList([RandomPhotometric(photometric=Photometric(jitter=1.0))])
    with seeded(*seed):
        given = T.AugInput(IMAGE.copy(), boxes=np.array([[1.0, 2, 3, 4]]))
        transforms = augmentation(given)
        again = transforms.apply_image(IMAGE.copy())
    return given, again


def test_pixels_change_boxes_stay_and_the_transform_repeats():
    given, again = augmented(1)
    assert not np.array_equal(given.image, IMAGE) and given.image.dtype == np.uint8
    assert np.array_equal(given.image, again)
    assert given.boxes.tolist() == [[1, 2, 3, 4]]


def test_a_function_of_the_seed():
    assert np.array_equal(augmented(1)[0].image, augmented(1)[0].image)
    assert not np.array_equal(augmented(1)[0].image, augmented(2)[0].image)
