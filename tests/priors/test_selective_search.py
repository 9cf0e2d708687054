"""Selective search: the set is fixed, the order is a function of the generator and nothing else."""

import ctypes
import logging
import multiprocessing

import cv2
import numpy as np
import pytest

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import c_random, selective_search
from d2_unsupdet.priors.selective_search import SelectiveSearch
from d2_unsupdet.seeding import generator
from tests.priors.pictures import RECTANGLE, iou, patchwork, rectangle


def search(pixels, seed=0, **settings):
    return SelectiveSearch(**settings)({}, pixels, generator(seed))


def as_set(boxes):
    return {tuple(box) for box in boxes.tolist()}


def in_child(seed, answers):
    ctypes.CDLL(None).srand(99)  # whatever another process did before
    answers.put(search(patchwork(), seed, orders=3))


def test_the_generator_decides_the_order_and_another_process_agrees():
    one = search(patchwork(), 1, orders=3)
    ctypes.CDLL(None).srand(7)
    np.testing.assert_array_equal(search(patchwork(), 1, orders=3).orders, one.orders)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=in_child, args=(1, answers))
    child.start()
    other = answers.get(timeout=60)
    child.join()
    np.testing.assert_array_equal(other.boxes, one.boxes)
    np.testing.assert_array_equal(other.orders, one.orders)


def test_orders_are_draws_of_one_set():
    found = search(patchwork(), 1, orders=4)
    count = len(found)
    assert count > 30 and found.orders[0].tolist() == list(range(count))
    assert all(sorted(order) == list(range(count)) for order in found.orders)
    assert len({tuple(order) for order in found.orders}) == 4
    assert as_set(search(patchwork(), 2).boxes) == as_set(found.boxes)
    assert (search(patchwork(), 2).boxes != found.boxes).any()
    assert len(as_set(found.boxes)) == count


def test_the_drawn_order_prefers_early_merges_a_shuffle_does_not():
    """OpenCV draws rand() times the level of the merging and sorts: what is small comes early."""

    def place_with_area(ranked):
        found = search(patchwork(), 3, orders=12, ranked=ranked)
        places = np.zeros(len(found))
        for order in found.orders:
            places[order.astype(int)] += np.arange(len(found))
        areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)
        return np.corrcoef(places, areas)[0, 1]

    assert place_with_area("drawn") > 0.45 and abs(place_with_area("shuffled")) < 0.25


@pytest.mark.parametrize("size", [128, None])
def test_boxes_are_in_pixels_of_the_image_that_was_given(size):
    found = search(rectangle(), size=size)
    assert iou(np.array(RECTANGLE), found.boxes).max() > 0.93
    assert found.boxes[:, 2].max() == 300 and found.boxes[:, 3].max() == 200
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_opencv_gets_its_own_order_of_colours():
    """Its segmentation reads BGR: an image given as RGB has other regions."""

    def by_opencv(pixels):
        direct = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        direct.setBaseImage(pixels)
        direct.switchToSelectiveSearchFast()
        x, y, w, h = direct.process().T
        return as_set(np.stack([x, y, x + w, y + h], axis=1))

    found = as_set(search(patchwork(), size=None).boxes)
    assert found == by_opencv(cv2.cvtColor(patchwork(), cv2.COLOR_RGB2BGR))
    assert found != by_opencv(patchwork())


def test_contrast_ranks_the_object_first_and_has_one_order():
    settings = {"ranked": "contrast", "side": (0.06, 0.75), "most_aspect": 3.5}
    first = search(rectangle(), 1, **settings)
    assert iou(np.array(RECTANGLE), first.boxes[:1])[0] > 0.9
    second = search(rectangle(), 2, **settings)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    sides = first.boxes[:, 2:] - first.boxes[:, :2]
    assert (sides[:, 0] <= 0.75 * 300).all() and (sides[:, 1] <= 0.75 * 200).all()


def test_limits_can_leave_nothing():
    found = search(rectangle(), side=(0.9, 0.95), orders=2)
    assert len(found) == 0 and found.orders.shape == (2, 0)


def test_without_a_seed_there_is_one_order_and_it_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(selective_search, "seed_reaches_opencv", lambda: False)
    selective_search._say_unseeded.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = search(patchwork(), orders=3)
        search(patchwork(), orders=3)
    assert len({tuple(order) for order in found.orders}) == 1
    assert len([r for r in caplog.records if "cannot be seeded" in r.message]) == 1


def test_whether_the_seed_works_is_tried(monkeypatch):
    c_random.seed_reaches_opencv.cache_clear()
    assert c_random.seed_reaches_opencv()
    c_random.seed_reaches_opencv.cache_clear()
    monkeypatch.setattr(c_random, "seed_c_library", lambda seed: True)  # a library nobody uses
    assert not c_random.seed_reaches_opencv()
    c_random.seed_reaches_opencv.cache_clear()


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"ranked": "best"}, "ranked='best' is not known"),
        ({"ranked": "contrast", "orders": 2}, "one order only"),
        ({"size": 4}, "size=4"),
        ({"side": (0.8, 0.2)}, "smallest and the largest"),
        ({"most_aspect": 1}, "most_aspect=1"),
    ],
)
def test_bad_settings_are_errors(settings, text):
    with pytest.raises(UserError, match=text):
        SelectiveSearch(**settings)


def test_without_contrib_it_says_what_to_install(monkeypatch):
    monkeypatch.delattr(c_random.cv2, "ximgproc")
    with pytest.raises(UserError, match="opencv-contrib-python-headless"):
        SelectiveSearch()
