"""Copies of small boxes: which are copied, where to, what they may hide."""

import numpy as np
import pytest

from d2_unsupdet.data.paste import PasteSmallBoxes

IMAGE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
SMALL, LARGE, TINY = [10, 10, 30, 26], [0, 40, 150, 118], [100, 5, 104, 9]
BOXES = np.array([SMALL, LARGE, TINY], np.float32)


def overlap(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return sides.clip(min=0).prod()


@pytest.mark.parametrize("seed", range(20))
def test_only_boxes_of_the_right_size_are_copied(seed):
    paste = PasteSmallBoxes(count=3, small=0.05, least_side=8, hidden=0.3)
    pixels, boxes, sources = paste(IMAGE, BOXES, np.random.default_rng(seed))
    assert (boxes[:3] == BOXES).all() and sources[:3].tolist() == [0, 1, 2]
    assert set(sources[3:].tolist()) <= {0}
    changed = (pixels != IMAGE).any(-1)
    for i in range(3, len(boxes)):
        x0, y0, x1, y1 = boxes[i].astype(int)
        assert (boxes[i, 2:] - boxes[i, :2]).tolist() == [20, 16]
        assert x0 >= 0 and x1 <= 160 and y0 >= 0 and y1 <= 120
        changed[y0:y1, x0:x1] = False
        for other in boxes[:i]:  # the ones that were there when it was pasted
            assert overlap(boxes[i], other) <= 0.3 * (other[2:] - other[:2]).prod() + 1e-3
    assert not changed.any()  # nothing but the copies changed


def test_a_copy_has_its_source_s_pixels():
    paste = PasteSmallBoxes(count=1)
    pixels, boxes, _ = paste(IMAGE, BOXES[:1], np.random.default_rng(0))
    x0, y0, x1, y1 = boxes[1].astype(int)
    assert (pixels[y0:y1, x0:x1] == IMAGE[10:26, 10:30]).all()


def test_a_second_copy_shows_nothing_of_the_first(monkeypatch):
    """The first one covers half of their source."""
    places = iter([(20, 10), (60, 90)])
    monkeypatch.setattr(PasteSmallBoxes, "_place", lambda *_: next(places))
    pixels, boxes, _ = PasteSmallBoxes(count=2)(IMAGE, BOXES[:1], np.random.default_rng(0))
    assert boxes[1:].tolist() == [[20, 10, 40, 26], [60, 90, 80, 106]]
    assert (pixels[10:26, 20:40] == IMAGE[10:26, 10:30]).all()
    assert (pixels[90:106, 60:80] == IMAGE[10:26, 10:30]).all()


def test_nothing_to_copy_leaves_the_image():
    for boxes in (BOXES[1:], np.zeros((0, 4), np.float32)):
        pixels, found, sources = PasteSmallBoxes()(IMAGE, boxes, np.random.default_rng(0))
        assert (pixels == IMAGE).all() and (found == boxes).all() and len(sources) == len(boxes)


def test_no_place_no_copy():
    cells = [[x, y, x + 4, y + 4] for x in range(0, 160, 4) for y in range(0, 120, 4)]
    crowded = np.array([SMALL, *cells], np.float32)
    _, boxes, _ = PasteSmallBoxes(hidden=0.5)(IMAGE, crowded, np.random.default_rng(0))
    assert len(boxes) == len(crowded)
