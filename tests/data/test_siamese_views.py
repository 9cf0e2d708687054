"""The two rectangles: overlap by the closed form, whole edges, maps between views, chosen boxes."""

import numpy as np
import pytest

from d2_unsupdet.data.siamese_boxes import SharedBoxes, cut, random_boxes
from d2_unsupdet.data.siamese_views import OverlappingViews, ViewPair, shared_side
from d2_unsupdet.errors import UserError

WIDTH, HEIGHT = 640, 480


def pairs(count=300, width=WIDTH, height=HEIGHT, **options):
    law = OverlappingViews(**options)
    return [law.draw(np.random.default_rng(seed), width, height) for seed in range(count)]


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("tau, side", [(0.3, 0.514), (0.5, 0.690), (0.7, 0.831)])
def test_the_closed_form(tau, side):
    t = shared_side(tau)
    assert t == pytest.approx(side, abs=1e-3)
    view = (1 + t) / 2  # both views, in the outer rectangle's sides
    assert t**2 / (2 * view**2 - t**2) == pytest.approx(tau)


@pytest.mark.parametrize("tau", [0.3, 0.5, 0.7])
def test_the_overlap_is_the_wanted_one(tau):
    """Rounding moves an edge by half a pixel: of 300 pixels that changes the IoU by < 0.01."""
    exact = [iou(*pair.views) for pair in pairs(iou=tau, shrink=False)]
    assert np.allclose(exact, tau, atol=0.01)
    shrunk = [iou(*pair.views) for pair in pairs(iou=tau)]
    assert min(shrunk) > tau - 0.01 and np.mean(shrunk) > tau + 0.05
    assert [p.iou for p in pairs(iou=tau)] == pytest.approx(shrunk)


def test_the_median_overlap_is_that_of_the_official_code():
    assert np.median([p.iou for p in pairs(1500)]) == pytest.approx(0.67, abs=0.015)


def test_views_lie_on_the_main_diagonal_in_either_order_and_share_their_part():
    order = set()
    for pair in pairs():
        a, b = sorted(pair.views)
        assert pair.shared == (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
        low, high = np.array(pair.outer[:2]), np.array(pair.outer[2:])
        for view in pair.views:
            assert (low <= view[:2]).all() and (view[2:] <= high).all()
        first = np.less_equal(pair.views[0][:2], pair.views[1][:2]).all()
        second = np.less_equal(pair.views[1][:2], pair.views[0][:2]).all()
        assert first or second  # never on the other diagonal
        order.add(bool(first))
        assert pair.size == (pair.outer[3] - pair.outer[1], pair.outer[2] - pair.outer[0])
    assert order == {True, False}


def test_the_outer_rectangle_covers_half_the_image_or_more():
    shares = [np.prod(pair.size) / (WIDTH * HEIGHT) for pair in pairs(600)]
    aspects = [pair.size[1] / pair.size[0] for pair in pairs(600)]
    assert 0.49 < min(shares) < 0.53 and max(shares) > 0.93
    assert min(aspects) > 0.74 and max(aspects) < 1.35


def test_boxes_go_from_view_to_view_and_back():
    """Against the formula of the official code."""
    rng = np.random.default_rng(0)
    for pair in pairs(20):
        first, second = pair.transforms(WIDTH, HEIGHT)
        (l1, t1, r1, b1), (l2, t2, r2, b2) = pair.views
        h, w = pair.size
        boxes = np.sort(rng.random((50, 2, 2)), axis=1).reshape(-1, 4) * [w, h, w, h]
        found = second.apply_box(first.inverse().apply_box(boxes))
        x = (boxes[:, ::2] * (r1 - l1) / w + l1 - l2) * w / (r2 - l2)
        y = (boxes[:, 1::2] * (b1 - t1) / h + t1 - t2) * h / (b2 - t2)
        assert np.allclose(found[:, ::2], x) and np.allclose(found[:, 1::2], y)
        assert np.allclose(first.apply_box(second.inverse().apply_box(found)), boxes)


@pytest.mark.parametrize("width, height", [(1, 1), (2, 3), (1, 600), (600, 1), (7, 300)])
def test_tiny_and_long_images_have_views(width, height):
    for pair in pairs(30, width, height):
        for left, top, right, bottom in (*pair.views, pair.shared):
            assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_an_impossible_overlap_is_a_sentence():
    with pytest.raises(UserError, match="iou=1.0 of the two views has to lie between 0 and 1"):
        OverlappingViews(iou=1.0)


SHARED = (100, 50, 300, 250)  # 5 % of it are 2000 pixels


def choose(boxes, **options):
    return SharedBoxes(**options)(np.random.default_rng(0), np.array(boxes, float), SHARED)


def test_first_the_shared_part_then_the_first_nine_that_it_holds():
    boxes = [
        [0, 0, 90, 90],  # outside
        [0, 0, 150, 100],  # 50 x 50 of it inside
        [120, 60, 160, 100],  # too small
        [90, 40, 310, 260],  # ends a pixel before the shared part does
        *[[110 + i, 60, 200 + i, 200] for i in range(20)],
    ]
    found = choose(boxes)
    assert found.shape == (10, 4)
    assert found[0].tolist() == list(SHARED)
    assert found[1].tolist() == [100, 50, 150, 100]
    assert found[2].tolist() == [100, 50, 299, 249]
    assert found[3:].tolist() == boxes[4:11]


def test_the_least_area_belongs_to_it():
    at, below = [110, 60, 150, 110], [110, 60, 150, 109.9]
    assert choose([at])[1].tolist() == at
    assert choose([below]) is None and choose(np.zeros((0, 4))) is None


def test_few_boxes_are_repeated_near_by():
    boxes = [[100, 60, 200, 120], [150, 100, 250, 240]]
    found = choose(boxes)
    assert found.shape == (10, 4) and found[1:3].tolist() == boxes
    assert len(np.unique(found, axis=0)) == 10
    for i, box in enumerate(found[3:]):
        source = np.array(boxes[i % 2], float)
        most = 0.1 * np.tile(source[2:] - source[:2], 2)
        assert (np.abs(box - source) <= most).all() and (box[2:] > box[:2]).all()
        assert (box == cut(box, SHARED)[0]).all()
    plain = choose(boxes, jitter=0.0)
    assert plain[1:].tolist() == [boxes[i % 2] for i in range(9)]


def test_the_moves_follow_the_official_law():
    """0.2 sigmoid(normal) - 0.1 has a standard deviation of 0.042."""
    box = np.array([[150.0, 100, 250, 200]])
    moved = SharedBoxes(count=4001)(np.random.default_rng(1), box, SHARED)
    shares = (moved[2:] - [150, 100, 250, 200]) / 100
    assert shares.std() == pytest.approx(0.042, abs=0.001) and abs(shares.mean()) < 0.001


def test_random_boxes_lie_in_the_shared_part_with_bounded_aspects():
    boxes = random_boxes(np.random.default_rng(0), SHARED, throws=2000)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert 1000 < len(boxes) < 2000  # some were too long
    assert (sides.max(1) / sides.min(1) <= 8 + 1e-9).all()
    assert (boxes[:, :2] >= SHARED[:2]).all() and (boxes[:, 2:] <= SHARED[2:]).all()


def test_a_pair_knows_its_size():
    pair = ViewPair(((0, 0, 8, 6), (2, 1, 10, 8)), (2, 1, 8, 6), (0, 0, 10, 8))
    assert pair.size == (8, 10) and pair.iou == pytest.approx(30 / (48 + 56 - 30))
