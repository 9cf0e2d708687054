"""Noised ground truth: where each copy sits, how far it is moved, what it shall become."""

import pytest
import torch

from d2_unsupdet.detectors import Denoising
from d2_unsupdet.detectors.denoising import noised_boxes, noised_labels
from d2_unsupdet.detectors.structures import Target

DIM = 16


def targets(*counts, classes=7):
    torch.manual_seed(0)
    return [
        Target(torch.randint(classes, (n,)), torch.rand(n, 4) * 0.5 + 0.2, f"image {i}")
        for i, n in enumerate(counts)
    ]


@pytest.mark.parametrize("counts", [(2, 3), (0, 4, 1), (5,), (1, 0)])
@pytest.mark.parametrize("groups", [1, 3])
def test_without_noise_every_slot_holds_its_target(counts, groups):
    made = Denoising(num_classes=7, dim=DIM, groups=groups, label_noise=0, box_noise=0)
    goals, most = targets(*counts), max(counts)
    noised = made(goals)
    assert noised.content.shape == (len(counts), most * groups, DIM)
    assert noised.group.tolist() == [g for g in range(groups) for _ in range(most)]
    assert noised.groups == groups
    where = {}
    for t in range(len(noised.labels)):
        where[int(noised.image[t]), int(noised.slot[t])] = t
    assert len(where) == len(noised.labels) == groups * sum(counts)
    for b, goal in enumerate(goals):
        for g in range(groups):
            for j in range(most):
                slot = g * most + j
                content, logit = noised.content[b, slot], noised.reference_logit[b, slot]
                if j < len(goal):
                    t = where[b, slot]
                    assert noised.labels[t] == goal.labels[j]
                    assert torch.equal(noised.boxes[t], goal.boxes[j])
                    assert torch.equal(content[:-1], made.labels.weight[goal.labels[j]])
                    assert content[-1] == 1
                    torch.testing.assert_close(logit.sigmoid(), goal.boxes[j])
                else:  # the box in the middle, and no content
                    assert (b, slot) not in where
                    assert not content.any() and not logit.any()


def test_noise_stays_in_its_bounds_and_fills_them():
    made = Denoising(num_classes=7, dim=DIM, groups=400, label_noise=0.0, box_noise=0.4)
    goals = targets(3, 5)
    noised = made(goals)
    moved = noised.reference_logit[noised.image, noised.slot].sigmoid()
    sides = noised.boxes[:, 2:]
    shift = (moved - noised.boxes) / torch.cat([sides / 2, sides], 1)
    assert 0.39 < shift.abs().max() < 0.4001
    for column in shift.T:  # uniform on both sides, and its own for each number
        assert abs(column.mean()) < 0.02 and abs(column.std() - 0.8 / 12**0.5) < 0.01
    correlation = torch.corrcoef(shift.T) - torch.eye(4)
    assert correlation.abs().max() < 0.1
    # the clean boxes stay clean
    assert torch.equal(noised.boxes, torch.cat([t.boxes for t in goals]).repeat(400, 1))


def test_labels_are_replaced_at_the_given_rate():
    made = Denoising(num_classes=7, dim=DIM, groups=600, label_noise=0.5, box_noise=0.0)
    with torch.no_grad():
        made.labels.weight.copy_(torch.arange(8.0)[:, None])
    noised = made(targets(4, 6))
    shown = noised.content[noised.image, noised.slot, 0].long()
    assert set(shown.tolist()) == set(range(7))  # the table's last row is never drawn
    changed = (shown != noised.labels).float().mean()
    assert abs(changed - 0.5 * 6 / 7) < 0.03  # a seventh of the draws are the label itself
    assert made.labels.weight.shape == (8, DIM - 1)


def test_boxes_stay_in_the_image():
    boxes = torch.tensor([[0.05, 0.95, 0.9, 1.0]])
    moved = noised_boxes(boxes, torch.tensor([[-1.0, 1.0, 1.0, -1.0]]))
    assert moved.tolist() == [[0.0, 1.0, 1.0, 0.0]]
    moved = noised_boxes(boxes, torch.tensor([[0.5, -0.1, -0.5, -0.25]]))
    torch.testing.assert_close(moved, torch.tensor([[0.275, 0.9, 0.45, 0.75]]))


def test_labels_change_where_they_are_told():
    labels, others = torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])
    replaced = torch.tensor([True, False, True])
    assert noised_labels(labels, others, replaced).tolist() == [4, 2, 6]


def test_references_are_bounded_by_eps():
    made = Denoising(num_classes=2, dim=DIM, groups=1, label_noise=0, box_noise=0)
    edge = [Target(torch.tensor([1]), torch.tensor([[0.0, 1.0, 0.5, 1.0]]), "edge")]
    logit = made(edge).reference_logit[0, 0]
    torch.testing.assert_close(
        logit, torch.tensor([-6.9078, 6.9078, 0.0, 6.9078]), atol=1e-3, rtol=0
    )


def test_nothing_to_repair_is_nothing():
    made = Denoising(num_classes=2, dim=DIM)
    empty = made(targets(0, 0))
    assert empty.content.shape == (2, 0, DIM) and len(empty.group) == len(empty.labels) == 0
    assert made.groups == 5 and made.label_noise == 0.2 and made.box_noise == 0.4
    assert abs(Denoising(num_classes=90, dim=64).labels.weight.std() - 1) < 0.05


def test_the_table_learns_from_what_it_showed():
    made = Denoising(num_classes=7, dim=DIM, label_noise=0.0)
    goals = targets(2, 1)
    noised = made(goals)
    noised.content.sum().backward()
    shown = torch.cat([t.labels for t in goals])
    times = torch.bincount(shown, minlength=8) * made.groups
    assert torch.equal(made.labels.weight.grad[:, 0], times.float())
