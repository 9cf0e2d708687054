"""Answers are matched by class, score and place: rank may differ by rounding, nothing else may."""

import numpy as np
import pytest

from d2_unsupdet.sharing.onnx_compare import Found, compare

SIZE = (100, 200)


def found(*rows):
    """(x0, y0, x1, y1, score, label) each."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4], table[:, 5].astype(int))


A, B, C = (0, 0, 10, 10, 0.9, 1), (20, 20, 60, 60, 0.5, 2), (5, 5, 9, 9, 0.2, 1)


def test_equal_lists_and_swapped_ones():
    same = compare(found(A, B, C), found(C, A, B), SIZE)
    assert same.fine and (same.score, same.box, same.matched, same.count) == (0, 0, 3, 3)
    assert compare(found(), found(), SIZE).fine


def test_rounding_is_measured():
    near = (0.1, 0, 10, 10.02, 0.90005, 1)
    seen = compare(found(A, B), found(B, near), SIZE)
    assert seen.fine
    assert seen.score == pytest.approx(5e-5) and seen.box == pytest.approx(0.1 / 200)


@pytest.mark.parametrize(
    "other",
    [
        found(B, C),  # one is missing
        found((0, 0, 10, 10, 0.9, 2), B, C),  # of another class
        found((0, 0, 10, 10, 0.8, 1), B, C),  # of another score
        found((1, 0, 10, 10, 0.9, 1), B, C),  # elsewhere
        found(A, A, B, C),  # twice
    ],
)
def test_what_is_no_rounding(other):
    assert not compare(found(A, B, C), other, SIZE).fine
    assert not compare(other, found(A, B, C), SIZE).fine


def test_the_last_ones_of_a_list_may_be_exchanged():
    many = [(i, 0, i + 5, 5, 0.9 - 0.01 * i, 1) for i in range(20)]
    other = (50, 50, 90, 90, 0.71005, 3)  # as good as the last one, 0.71
    assert compare(found(*many), found(*many[:-1], other), SIZE).fine
    assert not compare(found(*many), found(*many[:10], other, *many[11:]), SIZE).fine


def test_a_detection_is_the_partner_of_one_alone():
    many = [(i, 0, i + 5, 5, 0.9 - 0.01 * i, 1) for i in range(20)]
    assert not compare(found(*many, many[3]), found(*many), SIZE).fine


def test_lists_that_end_alike_still_have_to_agree():
    """Equal scores are all at the end of their list, where exchanges are rounding."""
    ours = [(i, 0, i + 5, 5, 0.5, 1) for i in range(20)]
    theirs = [(i, 50, i + 5, 60, 0.5, 1) for i in range(20)]
    assert compare(found(*ours), found(*ours[:19], theirs[19]), SIZE).fine
    seen = compare(found(*ours), found(*theirs), SIZE)
    assert seen.unmatched == 0 and not seen.fine


def test_empty_boxes_are_left_out_on_both_sides():
    empty = (30, 30, 30, 40, 0.8, 1)
    assert compare(found(A, B, C), found(A, empty, B, C), SIZE).fine
