"""Box Smooth against a slow reading of the paper, its two ends, and its two alternatives."""

import numpy as np
import pytest

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.box_smooth import BoxSmooth, DirectUpdate, NmsUpdate
from d2_unsupdet.priors.found import Found, nothing


def found(*rows, kind=None):
    """Boxes from (x1, y1, x2, y2, score) rows."""
    rows = np.array(rows, np.float32).reshape(-1, 5)
    kinds = None if kind is None else np.full(len(rows), kind, np.uint8)
    return Found(rows[:, :4], rows[:, 4], kinds)


def scattered(seed, count, low=0.05):
    """Boxes that overlap now and then, with scores that never tie."""
    draw = np.random.default_rng(seed)
    centres = draw.uniform(0.2, 0.8, (6, 2))[draw.integers(0, 6, count)]
    centres = centres + draw.normal(0, 0.02, (count, 2))
    half = draw.uniform(0.08, 0.12, (count, 2))
    boxes = np.concatenate([centres - half, centres + half], 1).astype(np.float32)
    return Found(boxes, draw.uniform(low, 1, count).astype(np.float32))


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return common / (areas - common)


def slow(previous, current, momentum=0.45, threshold=0.55):
    """Fusion with lists, one box after the other; (box, score) of each cluster, best first."""
    entries = [(momentum, s, b) for b, s in zip(previous.boxes, previous.scores, strict=True)]
    entries += [(1 - momentum, s, b) for b, s in zip(current.boxes, current.scores, strict=True)]
    clusters = []

    def fuse(members):
        weights = [share * score for share, score, _ in members]
        return sum(
            w * b.astype(float) for w, (_, _, b) in zip(weights, members, strict=True)
        ) / sum(weights)

    for entry in sorted(entries, key=lambda e: -e[0] * e[1]):
        overlaps = [iou(entry[2], fuse(members)) for members in clusters]
        if overlaps and max(overlaps) > threshold:
            clusters[int(np.argmax(overlaps))].append(entry)
        else:
            clusters.append([entry])
    result = [(fuse(m), np.mean([score for _, score, _ in m])) for m in clusters]
    return sorted(result, key=lambda pair: -pair[1])


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_papers_update(seed):
    previous, current = scattered(seed, 17), scattered(seed + 100, 23)
    expected = slow(previous, current)
    fused = BoxSmooth(most=100)(previous, current)
    assert 5 < len(fused) < 40
    np.testing.assert_allclose(fused.scores, [score for _, score in expected], rtol=1e-6)
    np.testing.assert_allclose(fused.boxes, [box for box, _ in expected], rtol=1e-5)
    capped = BoxSmooth(most=4)(previous, current)
    np.testing.assert_array_equal(capped.boxes, fused.boxes[:4])


def test_one_pair_is_weighted_by_momentum_and_score():
    fused = BoxSmooth()(found([0, 0, 10, 10, 0.5]), found([1, 0, 11, 10, 1.0]))
    old, new = 0.45 * 0.5, 0.55 * 1.0
    np.testing.assert_allclose(fused.boxes, [[new / (old + new), 0, 10 + new / (old + new), 10]])
    np.testing.assert_allclose(fused.scores, [0.75])


def test_an_overlap_of_exactly_the_threshold_joins_nothing():
    one, other = found([0, 0, 4, 4, 1.0]), found([0, 0, 4, 2, 1.0])
    assert len(BoxSmooth(iou=0.5)(one, other)) == 2
    assert len(BoxSmooth(iou=0.49)(one, other)) == 1


def test_momentum_one_changes_no_place_and_zero_takes_the_current():
    previous = found([0, 0, 10, 10, 0.5], [50, 50, 60, 60, 0.4])
    current = found([1, 0, 11, 10, 1.0], [80, 80, 90, 90, 0.9])
    stay = BoxSmooth(momentum=1.0)(previous, current)
    np.testing.assert_array_equal(
        sorted(map(tuple, stay.boxes)), sorted(map(tuple, previous.boxes))
    )
    renew = BoxSmooth(momentum=0.0)(previous, current)
    np.testing.assert_array_equal(
        sorted(map(tuple, renew.boxes)), sorted(map(tuple, current.boxes))
    )


def test_scores_of_zero_are_no_division_by_zero():
    fused = BoxSmooth()(found([0, 0, 10, 10, 0.0]), found([2, 0, 12, 10, 0.0]))
    np.testing.assert_allclose(fused.boxes, [[1, 0, 11, 10]])
    np.testing.assert_array_equal(fused.scores, [0])


def test_empty_sides():
    some = found([0, 0, 10, 10, 0.5], [0, 0, 3, 3, 0.7])
    for update in (BoxSmooth(), NmsUpdate()):
        for pair in ((some, nothing()), (nothing(), some)):
            np.testing.assert_array_equal(update(*pair).boxes, some.boxes[[1, 0]])
        assert len(update(nothing(), nothing())) == 0
    assert len(DirectUpdate()(some, nothing())) == 0


def test_decay_lowers_what_nothing_meets_and_nothing_else():
    previous, current = (
        found([0, 0, 10, 10, 0.8], [50, 50, 60, 60, 0.8]),
        found([0, 0, 10, 10, 0.8]),
    )
    scores = BoxSmooth(decay=0.5)(previous, current).scores
    np.testing.assert_allclose(scores, [0.8, 0.4])
    # Of equal scores, what was seen again comes first.
    turned = BoxSmooth()(previous.take(np.array([1, 0])), current)
    np.testing.assert_array_equal(turned.boxes[0], [0, 0, 10, 10])


def test_a_cluster_has_the_kind_of_its_heaviest_box():
    fused = BoxSmooth()(found([0, 0, 10, 10, 0.9], kind=0), found([0, 0, 10, 9, 0.8], kind=1))
    np.testing.assert_array_equal(fused.kinds, [1])  # 0.55 * 0.8 over 0.45 * 0.9


def test_direct_update_forgets():
    current = found([0, 0, 10, 10, 0.2], [5, 5, 9, 9, 0.9], [1, 1, 2, 2, 0.5])
    np.testing.assert_allclose(
        DirectUpdate(most=2)(found([7, 7, 8, 8, 1.0]), current).scores, [0.9, 0.5]
    )


def test_nms_update_replaces_only_where_a_current_box_overlaps():
    previous = found([0, 0, 10, 10, 0.9], [50, 50, 60, 60, 0.3])
    current = found([0, 0, 10, 9, 0.1], [80, 80, 90, 90, 0.2])
    boxes = NmsUpdate()(previous, current).boxes
    np.testing.assert_array_equal(boxes, [[50, 50, 60, 60], [80, 80, 90, 90], [0, 0, 10, 9]])


def test_an_order_of_equals_does_not_move_boxes():
    """The same sets in another order: the same fused boxes, up to rounding."""
    previous, current = scattered(3, 15), scattered(4, 15)
    again = BoxSmooth()(previous.take(np.arange(15)[::-1]), current.take(np.arange(15)[::-1]))
    np.testing.assert_allclose(BoxSmooth()(previous, current).boxes, again.boxes, atol=1e-6)


def test_bad_settings_are_a_sentence():
    with pytest.raises(UserError, match="momentum is 1.2"):
        BoxSmooth(momentum=1.2)
