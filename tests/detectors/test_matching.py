"""One-to-one matching: costs one at a time, and every possible assignment where there are few."""

import itertools
import math

import pytest
import torch

from d2_unsupdet.detectors import HungarianAssigner
from d2_unsupdet.detectors.assigning import Stage, assign
from d2_unsupdet.detectors.structures import Target
from d2_unsupdet.detectors.transfer import to_device, to_host

WEIGHTS = {"class_cost": 1.5, "box_cost": 4.0, "giou_cost": 3.0}


def stage(*counts, layers=2, queries=6, classes=5, seed=0, **options):
    torch.manual_seed(seed)
    return Stage(
        logits=torch.randn(layers, len(counts), queries, classes).double(),
        boxes=torch.rand(layers, len(counts), queries, 4).double() * 0.5 + 0.2,
        reference=None,
        targets=[
            Target(torch.randint(classes - 1, (n,)), torch.rand(n, 4) * 0.5 + 0.2, f"image {i}")
            for i, n in enumerate(counts)
        ],
        **options,
    )


def giou(a, b):
    """Of two boxes (cx, cy, w, h) as lists of numbers."""
    a = (a[0] - a[2] / 2, a[1] - a[3] / 2, a[0] + a[2] / 2, a[1] + a[3] / 2)
    b = (b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2)
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return both / area - (hull - area) / hull


def class_cost(kind, logits, label, alpha=0.25, gamma=2.0):
    if kind == "focal":
        p = 1 / (1 + math.exp(-logits[label]))
        hit = alpha * (1 - p) ** gamma * -math.log(p + 1e-8)
        return hit - (1 - alpha) * p**gamma * -math.log(1 - p + 1e-8)
    p = math.exp(logits[label]) / sum(map(math.exp, logits))
    return -p if kind == "softmax" else -math.log(p)


@pytest.mark.parametrize("kind", ["focal", "softmax", "log_softmax"])
def test_costs_are_those_of_the_definition(kind):
    some = stage(3, 1)
    assigner = HungarianAssigner(classification=kind, alpha=0.3, gamma=1.5, **WEIGHTS)
    costs = assigner.ask(some)
    for b, target in enumerate(some.targets):
        assert costs[b].shape == (2, 6, len(target))
        for d, n, t in itertools.product(range(2), range(6), range(len(target))):
            box, goal = some.boxes[d, b, n].tolist(), target.boxes[t].tolist()
            logits = some.logits[d, b, n].tolist()
            label = int(target.labels[t])
            expected = 1.5 * class_cost(kind, logits, label, 0.3, 1.5)
            expected += 4 * sum(abs(x - y) for x, y in zip(box, goal, strict=True))
            expected -= 3 * giou(box, goal)
            assert costs[b][d, n, t].item() == pytest.approx(expected, abs=1e-6)


def test_defaults_are_those_of_focal_detectors():
    assigner = HungarianAssigner()
    assert assigner.classification == "focal"
    assert (assigner.class_cost, assigner.box_cost, assigner.giou_cost) == (2, 5, 2)
    assert (assigner.alpha, assigner.gamma) == (0.25, 2)


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (6, 7), (0, 0)])
def test_no_other_assignment_is_cheaper(counts):
    some = stage(*counts, queries=6 if max(counts) < 6 else 5)
    assigner = HungarianAssigner(**WEIGHTS)
    costs = assigner.ask(some)
    matches = assign([(assigner, some)])[0]
    assert len(matches) == 2
    for d, match in enumerate(matches):
        for b, count in enumerate(counts):
            query, target = match.pair(b)
            size = min(count, some.boxes.shape[2])
            assert len(set(query.tolist())) == len(set(target.tolist())) == len(query) == size
            assert query.dtype == target.dtype == torch.long and query.device.type == "cpu"
            if 0 < count <= 3:
                cost = costs[b][d]
                best = min(
                    sum(float(cost[n, t]) for t, n in enumerate(order))
                    for order in itertools.permutations(range(some.boxes.shape[2]), count)
                )
                assert float(cost[query, target].sum()) == pytest.approx(best)


def test_every_layer_is_matched_afresh():
    some = stage(3, seed=1, layers=3)
    every = assign([(HungarianAssigner(), some)])[0]
    for layer in range(3):
        alone = Stage(some.logits[[layer]], some.boxes[[layer]], None, some.targets)
        single = assign([(HungarianAssigner(), alone)])[0][0]
        assert torch.equal(single.queries[0], every[layer].queries[0])
        assert torch.equal(single.targets[0], every[layer].targets[0])
    assert not torch.equal(every[0].queries[0], every[1].queries[0])


def test_blocked_queries_get_nothing():
    blocked = torch.zeros(2, 6, dtype=torch.bool)
    blocked[0, :3] = True
    blocked[1, 1:] = True  # one query is left for two targets
    matches = assign([(HungarianAssigner(), stage(3, 2, blocked=blocked))])[0]
    for match in matches:
        assert sorted(match.queries[0].tolist()) == [3, 4, 5]
        assert match.queries[1].tolist() == [0] and len(match.targets[1]) == 1


def test_targets_go_to_allowed_queries_or_to_none():
    allowed = torch.zeros(6, 4, dtype=torch.bool)
    allowed[:2, 0] = allowed[2, 1] = allowed[2, 2] = True  # the fourth target has no query
    for match in assign([(HungarianAssigner(), stage(4, 1, allowed=allowed))])[0]:
        pairs = list(zip(match.queries[0].tolist(), match.targets[0].tolist(), strict=True))
        assert len(pairs) == 2 and all(allowed[q, t] for q, t in pairs)
        assert match.queries[1].tolist() in ([0], [1]) and match.targets[1].tolist() == [0]


@pytest.mark.parametrize("broken", ["boxes", "logits"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_cost_that_is_not_finite_names_its_image(broken, value):
    some = stage(2, 2)
    getattr(some, broken)[0, 1] = value
    if broken == "logits" and value == math.inf:
        assert len(assign([(HungarianAssigner(), some)])[0]) == 2  # p = 1 has a finite cost
        return
    with pytest.raises(FloatingPointError, match="image 1 is not finite"):
        assign([(HungarianAssigner(), some)])


def test_half_precision_is_compared_in_single():
    some = stage(3)
    half = Stage(some.logits.bfloat16(), some.boxes.bfloat16(), None, some.targets)
    assert all(cost.dtype == torch.float32 for cost in HungarianAssigner().ask(half))


def test_predictions_learn_nothing_from_being_matched():
    some = stage(2)
    some.boxes.requires_grad_()
    seen = []

    class Spy(HungarianAssigner):
        def ask(self, stage):
            seen.extend(super().ask(stage))
            return seen

    assign([(Spy(), some)])
    assert not any(cost.requires_grad for cost in seen)


def test_stages_share_one_transfer():
    first, second = stage(2, 1), stage(3, 0, seed=3, layers=1)
    alone = [assign([(HungarianAssigner(), some)])[0] for some in (first, second)]
    both = assign([(HungarianAssigner(), first), (HungarianAssigner(), second)])
    for expected, found in zip(alone, both, strict=True):
        for a, b in zip(expected, found, strict=True):
            assert all(map(torch.equal, a.queries + a.targets, b.queries + b.targets))


def test_transfer_keeps_shapes_and_doubles():
    some = [torch.rand(2, 3), torch.empty(0, 4), torch.tensor([True, False]), torch.tensor(5)]
    for extra, dtype in ((torch.zeros(1), torch.float32), (torch.zeros(1).double(), torch.float64)):
        arrived = to_host([*some, extra])
        for before, after in zip([*some, extra], arrived, strict=True):
            assert after.shape == before.shape and after.dtype == dtype
            assert torch.equal(after, before.to(dtype))
    assert to_host([]) == []
    assert to_device([(1, 2)], torch.device("cpu"), torch.int64).tolist() == [[1, 2]]
