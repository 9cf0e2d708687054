"""What must fail does fail: tolerances, shapes, assignments, ties."""

import pytest
import torch

from d2_unsupdet.parity.compare import TOLERANCES, align_detections, compare, pairs

GOLDEN = torch.tensor([0.5, 1.0, 100.0])


@pytest.mark.parametrize("kind", TOLERANCES)
def test_tolerance_is_absolute_plus_relative(kind):
    absolute, relative = TOLERANCES[kind]
    allowed = absolute + relative * GOLDEN
    assert compare("x", kind, GOLDEN, GOLDEN).passed
    assert compare("x", kind, GOLDEN.double() + 0.99 * allowed, GOLDEN).passed
    assert not compare("x", kind, GOLDEN.double() + 1.01 * allowed + 1e-12, GOLDEN).passed


def test_shape_and_infinities():
    assert not compare("x", "logits", GOLDEN[:2], GOLDEN).passed
    infinite = torch.tensor([float("inf"), 1.0])
    assert compare("x", "logits", infinite, infinite).passed
    assert not compare("x", "logits", -infinite, infinite).passed
    assert not compare("x", "logits", torch.tensor([float("nan"), 1.0]), torch.ones(2)).passed
    assert compare("x", "logits", torch.ones(0), torch.ones(0)).passed


def test_assignments_are_sets_of_pairs():
    a = (torch.tensor([3, 1]), torch.tensor([0, 2]))
    assert pairs("x", a, (torch.tensor([1, 3]), torch.tensor([2, 0]))).passed
    row = pairs("x", a, (torch.tensor([1, 3]), torch.tensor([0, 2])))
    assert not row.passed
    assert "[(1, 2), (3, 0)] instead of [(1, 0), (3, 2)]" in str(row)


def test_only_ties_change_place():
    scores, labels = torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([1, 2, 3, 4])
    boxes = torch.arange(16.0).view(4, 4)
    swapped = [values[[0, 2, 1, 3]] for values in (scores, labels, boxes)]
    aligned = align_detections(swapped, [scores, labels, boxes])
    assert torch.equal(aligned[1], labels)
    moved = [values[[1, 0, 2, 3]] for values in (scores, labels, boxes)]
    assert not torch.equal(align_detections(moved, [scores, labels, boxes])[1], labels)
