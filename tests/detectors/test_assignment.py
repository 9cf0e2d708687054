"""Overlap assignment against loops; how it treats ties, crowds, untouched and forbidden pairs."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from d2_unsupdet.detectors import OverlapAssigner
from d2_unsupdet.detectors.assigning import Stage, assign
from d2_unsupdet.detectors.boxes import to_xyxy
from d2_unsupdet.detectors.structures import Target
from d2_unsupdet.errors import UserError

ALL = {"positive_fraction": 1.0}  # every positive is sampled: nothing is random


def overlaps(targets, queries, *, seed, crowded=False):
    """Overlaps of boxes (n, N); crowded ones share many queries."""
    generator = torch.Generator().manual_seed(seed)
    goals = torch.rand(targets, 4, generator=generator) * 0.4 + 0.3
    if crowded:
        goals = goals[:1] + 0.03 * torch.rand(targets, 4, generator=generator)
    owner = torch.randint(targets, (queries,), generator=generator)
    noise = (torch.rand(queries, 4, generator=generator) - 0.5) * 0.3
    boxes = (goals[owner] + noise).clamp(0.05, 0.95)
    boxes[::3] = torch.rand(len(boxes[::3]), 4, generator=generator) * 0.5 + 0.1
    return box_iou(to_xyxy(goals), to_xyxy(boxes)).double()


def candidates(iou, positive):
    """Query to target: over the threshold, or the best of some target."""
    chosen = {}
    for query in range(iou.shape[1]):
        column = iou[:, query].tolist()
        own = max(range(len(column)), key=column.__getitem__)
        best_of_one = any(column[t] == float(iou[t].max()) for t in range(len(column)))
        if column[own] >= positive or best_of_one:
            chosen[query] = own
    return chosen


def counted(iou, positive, per_object):
    """As many of a target's best overlaps as it has candidates, at most `per_object`."""
    owners = list(candidates(iou, positive).values())
    pairs = []
    for target in range(len(iou)):
        best = sorted(range(iou.shape[1]), key=lambda q: -float(iou[target, q]))
        pairs += [(q, target) for q in best[: min(per_object, owners.count(target))]]
    return pairs


def once(pairs, iou):
    """A query that several targets chose goes to the one it overlaps most."""
    result = []
    for query, target in pairs:
        rivals = [t for q, t in pairs if q == query]
        if target == max(rivals, key=lambda t: float(iou[t, query])):
            result.append((query, target))
    return result


def found(assigner, iou):
    query, target = assigner.pairs(iou)
    assert query.dtype == target.dtype == torch.long
    return list(zip(query.tolist(), target.tolist(), strict=True))


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("per_object", [1, 4, 100])
@pytest.mark.parametrize("unique", [True, False])
def test_without_sampling_the_loop_says_the_same(crowded, per_object, unique):
    shared = 0
    for seed in range(10):
        iou = overlaps(4, 30, seed=seed, crowded=crowded)
        assigner = OverlapAssigner(positive=0.5, per_object=per_object, unique=unique, **ALL)
        pairs = counted(iou, 0.5, per_object)
        shared += len(pairs) - len({q for q, _ in pairs})
        assert sorted(found(assigner, iou)) == sorted(once(pairs, iou) if unique else pairs)
    assert shared > 0 or not crowded or per_object == 1


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("per_object", [1, 3, 100])
def test_dynamic_threshold_rises_to_the_nth_overlap(crowded, per_object):
    for seed in range(10):
        iou = overlaps(4, 30, seed=seed, crowded=crowded)
        expected = []
        for query, own in candidates(iou, 0.5).items():
            ranked = sorted(iou[own].tolist(), reverse=True)
            threshold = max(0.5, ranked[min(per_object, len(ranked)) - 1])
            value = float(iou[own, query])
            if value >= threshold or value < 0.5:
                expected.append((query, own))
        assigner = OverlapAssigner(
            positive=0.5, per_object=per_object, balance="dynamic", positive_fraction=0.01
        )
        assert sorted(found(assigner, iou)) == sorted(expected)


def test_between_the_thresholds_nothing_is_negative_or_positive():
    """The sampler fills up with negatives, so a positive is there whatever lies between."""
    iou = torch.tensor([[0.8, 0.5, 0.4, 0.1]]).double()
    assigner = OverlapAssigner(positive=0.7, negative=0.3, **ALL)
    assert assigner.matcher(iou)[1].tolist() == [1, -1, -1, 0]
    assert found(assigner, iou) == [(0, 0)]
    for negative in (None, 0.7):
        single = OverlapAssigner(positive=0.7, negative=negative, **ALL)
        assert single.matcher(iou)[1].tolist() == [1, 0, 0, 0]


def test_the_threshold_itself_is_positive():
    iou = torch.tensor([[0.9, 0.75, 0.74]]).double()
    assert found(OverlapAssigner(positive=0.75, **ALL), iou) == [(0, 0), (1, 0)]
    assert found(OverlapAssigner(positive=0.75, balance="dynamic"), iou) == [(0, 0), (1, 0)]


@pytest.mark.parametrize("balance", ["count", "dynamic"])
def test_every_touched_target_has_its_best_query(balance):
    iou = torch.tensor([[0.2, 0.1, 0.05], [0.0, 0.3, 0.3]]).double()
    pairs = found(OverlapAssigner(positive=0.7, balance=balance, **ALL), iou)
    assert sorted(pairs) == [(0, 0), (1, 1), (2, 1)]  # both of a tie


@pytest.mark.parametrize("samples, fraction, most", [(20, 0.5, 10), (None, 0.25, 10), (8, 0.3, 2)])
def test_positives_are_capped_and_drawn_at_random(samples, fraction, most):
    iou = torch.full((1, 40), 0.9).double()
    iou[0] -= torch.arange(40) * 1e-3
    assigner = OverlapAssigner(
        positive=0.5, samples=samples, positive_fraction=fraction, per_object=1000
    )
    # as many as were drawn, but always the best
    assert found(assigner, iou) == [(q, 0) for q in range(most)]


def test_a_draw_decides_how_many_each_target_keeps():
    iou = torch.zeros(2, 40).double()
    iou[0, :20], iou[1, 20:] = 0.9, 0.8
    assigner = OverlapAssigner(positive=0.5, samples=20, positive_fraction=0.5, per_object=1000)
    torch.manual_seed(0)
    counts = []
    for _ in range(20):
        targets = [target for _, target in found(assigner, iou)]
        assert len(targets) == 10
        counts.append(targets.count(0))
    assert len(set(counts)) > 1 and 3 < sum(counts) / 20 < 7


def test_a_target_that_nothing_touches_is_left_out_or_takes_any():
    iou = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.8]]).double()
    assert found(OverlapAssigner(positive=0.6, **ALL), iou) == [(2, 1)]
    original = OverlapAssigner(positive=0.6, unique=False, zero_overlap="original", **ALL)
    pairs = found(original, iou)
    assert {t for _, t in pairs} == {0, 1} and (2, 1) in pairs
    # all three queries became positive; the untouched target has those whose first row is best
    assert len([t for _, t in pairs if t == 0]) == 1 and len([t for _, t in pairs if t == 1]) == 2
    untouched = torch.zeros(2, 3).double()
    assert found(OverlapAssigner(**ALL), untouched) == []


@pytest.mark.parametrize("balance", ["count", "dynamic"])
@pytest.mark.parametrize("zero_overlap", ["ignore", "original"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_pair_is_no_pair(balance, zero_overlap, shape):
    assigner = OverlapAssigner(balance=balance, zero_overlap=zero_overlap)
    assert found(assigner, torch.zeros(shape)) == []


def stage(*counts, queries=12, layers=2, seed=0, **options):
    torch.manual_seed(seed)
    boxes = torch.rand(len(counts), queries, 4) * 0.4 + 0.3
    return Stage(
        logits=torch.randn(layers, len(counts), queries, 3),
        boxes=torch.rand(layers, len(counts), queries, 4),
        reference=boxes,
        targets=[
            Target(torch.zeros(n).long(), torch.rand(n, 4) * 0.4 + 0.3, f"image {i}")
            for i, n in enumerate(counts)
        ],
        **options,
    )


def test_references_decide_and_all_layers_share_the_answer():
    some = stage(3, 0, 2)
    assigner = OverlapAssigner(positive=0.4, **ALL)
    layers = assign([(assigner, some)])[0]
    assert len(layers) == 2 and layers[0] is layers[1]
    for b, target in enumerate(some.targets):
        iou = box_iou(to_xyxy(target.boxes), to_xyxy(some.reference[b]))
        query, goal = layers[0].pair(b)
        expected = once(counted(iou, 0.4, 4), iou) if len(target) else []
        assert sorted(zip(query.tolist(), goal.tolist(), strict=True)) == sorted(expected)
    moved = Stage(some.logits, some.boxes.flip(2), some.reference, some.targets)
    again = assign([(assigner, moved)])[0][0]
    assert all(map(torch.equal, again.queries, layers[0].queries))


def test_blocked_and_forbidden_queries_have_no_overlap():
    blocked = torch.zeros(2, 12, dtype=torch.bool)
    blocked[0, :6] = True
    allowed = torch.rand(12, 4) < 0.5
    assigner = OverlapAssigner(positive=0.3, **ALL)
    some = stage(4, 2, blocked=blocked, allowed=allowed)
    match = assign([(assigner, some)])[0][0]
    for b in range(2):
        iou = box_iou(to_xyxy(some.targets[b].boxes), to_xyxy(some.reference[b]))
        for t in range(len(iou)):
            for q in range(12):
                if blocked[b, q] or not allowed[q, t]:
                    iou[t, q] = 0
        touched = [t for t in range(len(iou)) if iou[t].max() > 0]
        expected = [(q, touched[t]) for q, t in counted(iou[touched], 0.3, 4)]
        pairs = list(zip(*(x.tolist() for x in match.pair(b)), strict=True))
        assert pairs and all(allowed[q, t] and not blocked[b, q] for q, t in pairs)
        assert sorted(pairs) == sorted(once(expected, iou))


@pytest.mark.parametrize("balance", ["count", "dynamic"])
def test_forbidden_pairs_are_never_made_not_even_for_untouched_targets(balance):
    """The original takes any query for a target that nothing touches; a group's rule wins."""
    some = stage(2, queries=4)
    some.targets[0].boxes[0] = torch.tensor([0.95, 0.95, 0.02, 0.02])  # far from all references
    allowed = torch.tensor([[True, False], [True, False], [False, True], [False, True]])
    assigner = OverlapAssigner(positive=0.1, zero_overlap="original", balance=balance, **ALL)
    query, target = assign([(assigner, Stage(**{**vars(some), "allowed": allowed}))])[0][0].pair(0)
    assert len(query) and allowed[query, target].all()


def test_overlaps_that_are_not_finite_name_their_image():
    some = stage(1, 1)
    some.reference[1, 3, 0] = math.nan
    with pytest.raises(FloatingPointError, match="overlaps of image image 1"):
        assign([(OverlapAssigner(), some)])


@pytest.mark.parametrize("width", [None, 2])
def test_points_cannot_overlap(width):
    some = stage(1)
    reference = None if width is None else some.reference[..., :width]
    with pytest.raises(UserError, match="compares boxes"):
        assign([(OverlapAssigner(), Stage(some.logits, some.boxes, reference, some.targets))])


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match=r"negative=0\.8 must not be above positive=0\.7"):
        OverlapAssigner(positive=0.7, negative=0.8)
    with pytest.raises(UserError, match="count and dynamic, not 'best'"):
        OverlapAssigner(balance="best")
    with pytest.raises(UserError, match="ignore and original, not 'keep'"):
        OverlapAssigner(zero_overlap="keep")
