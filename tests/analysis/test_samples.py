"""Images, boxes and views are the same for every checkpoint; boxes lie where they should."""

import numpy as np
import pytest
import torch

from d2_unsupdet.analysis.samples import Sample, draw_views, read_samples, stack
from d2_unsupdet.errors import UserError
from tests.analysis.coordinates import coordinate_image, coordinate_views

DATA = "toy_val:images=6:size=64"


def test_a_seed_decides_images_and_boxes():
    first, again = (read_samples(DATA, 4, seed=1, boxes=True) for _ in range(2))
    assert [(s.name, s.box) for s in first] == [(s.name, s.box) for s in again]
    more = read_samples(DATA, 5, seed=1, boxes=True)
    assert [s.name for s in more[:4]] == [s.name for s in first]  # more images keep the others
    other = read_samples(DATA, 6, seed=2)
    assert [s.name for s in other] != [s.name for s in read_samples(DATA, 6, seed=1)]
    assert len(read_samples(DATA, 100)) == 6


def test_boxes_are_asked_of_data_without_any():
    with pytest.raises(UserError, match="toy_unlabeled.* holds no image with a box"):
        read_samples("toy_unlabeled:images=3:size=64", 2, boxes=True)
    assert len(read_samples("toy_unlabeled:images=3:size=64", 2)) == 2


def test_stretched_images_keep_their_boxes():
    sample = Sample(coordinate_image(400, 300), "it", (100.0, 75.0, 200.0, 150.0))
    images, boxes = stack([sample], 128)
    assert images.shape == (1, 3, 128, 128) and boxes.tolist() == [[32, 32, 64, 64]]


def test_views_show_the_whole_box_at_the_same_place_of_the_image():
    for views in coordinate_views(8, whole_box=True):
        for image, box, flipped in zip(views.images, views.boxes, views.flipped, strict=True):
            x0, y0, x1, y1 = box.tolist()
            assert min(x0, y0) >= -0.01 and max(x1, y1) <= 256.01
            red, green = (int(image[c, round((y0 + y1) / 2), round((x0 + x1) / 2)]) for c in (0, 1))
            assert red == pytest.approx(210 / 400 * 255, abs=3)
            assert green == pytest.approx(155 / 300 * 255, abs=3)
            assert flipped == (int(image[0, 128, 2]) > int(image[0, 128, 250]))


def test_views_without_geometry_differ_only_in_colour_and_flips():
    for views in coordinate_views(4, geometry="none"):
        assert views.images[0].equal(views.images[1])
    flips = coordinate_views(8, geometry="flip")
    assert any(views.flipped[0] != views.flipped[1] for views in flips)
    for views in flips:
        first, second = (
            image.flip(-1) if f else image
            for image, f in zip(views.images, views.flipped, strict=True)
        )
        assert first.equal(second)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    coloured = [draw_views(Sample(noise, "it"), 3, size=64) for _ in range(2)]
    assert torch.equal(coloured[0].images, coloured[1].images)
    assert not torch.equal(coloured[0].images[0], coloured[0].images[1])


def test_a_box_that_no_crop_holds():
    sample = Sample(coordinate_image(), "it", (0.0, 0.0, 400.0, 300.0))
    assert draw_views(sample, 0, size=64, whole_box=True) is None
