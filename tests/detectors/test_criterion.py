"""All losses against a loop over layers, images and pairs; the metrics that are logged beside."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

from d2_unsupdet.detectors import (
    Criterion,
    FocalLoss,
    HungarianAssigner,
    OverlapAssigner,
    SoftmaxLoss,
)
from d2_unsupdet.detectors.boxes import to_xyxy
from d2_unsupdet.detectors.criterion import average_count
from d2_unsupdet.detectors.structures import (
    Decoded,
    DenoisingQueries,
    Encoded,
    Match,
    ProposalSet,
    Target,
)
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import drain_metrics
from tests.detectors.test_matching import giou

WEIGHTS = {"ce": 1.5, "bbox": 4.0, "giou": 3.0}
LAYERS, QUERIES, CLASSES, TOKENS = 3, 6, 4, 9


def targets(*counts):
    torch.manual_seed(9)
    return [
        Target(torch.randint(CLASSES - 1, (n,)), torch.rand(n, 4).double() * 0.5 + 0.2, f"{i}")
        for i, n in enumerate(counts)
    ]


def decoded(images=2, queries=QUERIES, *, seed=0, reference=None):
    torch.manual_seed(seed)
    logits = torch.randn(LAYERS, images, queries, CLASSES).double()
    boxes = torch.rand(LAYERS, images, queries, 4).double() * 0.5 + 0.2
    start = torch.rand(images, queries, 4).double() * 0.5 + 0.2
    return Decoded(torch.zeros(1), logits, boxes, start if reference is None else reference)


def memory(images=2, *, classes=1, proposals=True):
    torch.manual_seed(5)
    mask = torch.zeros(images, TOKENS, dtype=torch.bool)
    mask[-1, 5:] = True
    found = ProposalSet(
        logits=torch.randn(images, TOKENS, classes).double(),
        boxes_logit=torch.randn(images, TOKENS, 4).double(),
        anchors=torch.rand(images, TOKENS, 4).double() * 0.5 + 0.2,
        tokens=torch.zeros(images, TOKENS, 8),
        selected=torch.zeros(images, 1).long(),
    )
    memory = torch.zeros(images, TOKENS, 8).double()
    return Encoded(
        memory, mask, memory, [(3, 3)], torch.ones(images, 1, 2), found if proposals else None
    )


def focal_sum(logits, wanted, alpha, gamma, skipped=()):
    """`wanted` maps a query to its classes."""
    total = 0.0
    for n in range(len(logits)):
        for k in range(logits.shape[1]):
            p = 1 / (1 + math.exp(-float(logits[n, k])))
            if n in skipped:
                continue
            if k in wanted.get(n, ()):
                total += alpha * (1 - p) ** gamma * -math.log(p)
            else:
                total += (1 - alpha) * p**gamma * -math.log(1 - p)
    return total


def box_sums(boxes, pairs, target):
    apart = outside = 0.0
    for query, goal in pairs:
        a, b = boxes[query].tolist(), target.boxes[goal].tolist()
        apart += sum(abs(x - y) for x, y in zip(a, b, strict=True))
        outside += 1 - giou(a, b)
    return apart, outside


def pairs_of(match, image):
    return list(zip(*(x.tolist() for x in match.pair(image)), strict=True))


def focal_losses(logits, boxes, match, goals, *, count, alpha=0.25, gamma=2.0, skipped=None):
    """One layer: class, L1 and GIoU, weighted."""
    ce = apart = outside = 0.0
    for b, goal in enumerate(goals):
        pairs = pairs_of(match, b)
        wanted = {query: [int(goal.labels[t])] for query, t in pairs}
        drop = () if skipped is None else skipped[b].nonzero().flatten().tolist()
        ce += focal_sum(logits[b], wanted, alpha, gamma, drop)
        one, two = box_sums(boxes[b], pairs, goal)
        apart, outside = apart + one, outside + two
    return [ce / count * 1.5, apart / count * 4.0, outside / count * 3.0]


def suffix(layer):
    return "" if layer == LAYERS - 1 else f"_{layer}"


def assert_losses(losses, end, expected):
    found = [losses[f"loss_{name}{end}"].item() for name in ("ce", "bbox", "giou")]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0), (7, 1)])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_focal_losses_of_every_layer(counts, auxiliary):
    goals, out = targets(*counts), decoded()
    criterion = Criterion(
        classification=FocalLoss(alpha=0.3, gamma=1.5),
        assigner=HungarianAssigner(),
        weights=WEIGHTS,
        auxiliary=auxiliary,
    )
    losses, matches = criterion(out, memory(proposals=False), goals)
    count = max(1, sum(counts))
    layers = range(LAYERS) if auxiliary else [LAYERS - 1]
    for layer in layers:
        expected = focal_losses(
            out.logits[layer],
            out.boxes[layer],
            matches[layer],
            goals,
            count=count,
            alpha=0.3,
            gamma=1.5,
        )
        assert_losses(losses, suffix(layer), expected)
    ends = [suffix(layer) for layer in layers]
    assert set(losses) == {f"loss_{n}{e}" for n in ("ce", "bbox", "giou") for e in ends}
    assert len(matches.layers) == LAYERS and matches.encoder is None


@pytest.mark.parametrize("counts", [(3, 1), (0, 0)])
@pytest.mark.parametrize("no_object", [0.1, 0.7])
def test_softmax_loss_is_a_mean_weighted_by_class(counts, no_object):
    goals, out = targets(*counts), decoded()
    criterion = Criterion(
        classification=SoftmaxLoss(no_object=no_object),
        assigner=HungarianAssigner(classification="softmax"),
        weights=WEIGHTS,
    )
    losses, matches = criterion(out, memory(proposals=False), goals)
    for layer in range(LAYERS):
        total = weight = 0.0
        for b, n in itertools.product(range(2), range(QUERIES)):
            own = dict(pairs_of(matches[layer], b)).get(n)
            label = CLASSES - 1 if own is None else int(goals[b].labels[own])
            share = no_object if own is None else 1.0
            total -= share * float(out.logits[layer, b, n].log_softmax(0)[label])
            weight += share
        found = losses[f"loss_ce{suffix(layer)}"].item()
        assert found == pytest.approx(1.5 * total / weight, rel=1e-6)


def test_softmax_loss_is_torchs_and_leaves_out_what_is_ignored():
    torch.manual_seed(0)
    logits = torch.randn(1, 2, 5, CLASSES).double()
    ignored = torch.rand(2, 5) < 0.4
    ignored[0, 1] = False
    index = tuple(torch.tensor([v]) for v in (0, 0, 1))
    labels, count = torch.tensor([2]), torch.tensor(1.0)
    goal = torch.full((2, 5), CLASSES - 1)
    goal[0, 1] = 2
    weight = torch.tensor([1.0, 1, 1, 0.1]).double()
    loss = SoftmaxLoss()
    expected = F.cross_entropy(logits[0].flatten(0, 1), goal.flatten(), weight)
    torch.testing.assert_close(loss(logits, index, labels, count)[0], expected)
    expected = F.cross_entropy(logits[0][~ignored], goal[~ignored], weight)
    torch.testing.assert_close(loss(logits, index, labels, count, ignored[..., None])[0], expected)


@pytest.mark.parametrize("ignore_padding", [True, False])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("assigner", [HungarianAssigner(), OverlapAssigner(positive_fraction=1.0)])
def test_encoder_stage_learns_what_is_an_object(ignore_padding, classes, assigner):
    goals, out, encoded = targets(3, 2), decoded(), memory(classes=classes)
    criterion = Criterion(
        classification=FocalLoss(alpha=0.4),
        assigner=HungarianAssigner(),
        encoder_assigner=assigner,
        weights=WEIGHTS,
        ignore_padding=ignore_padding,
    )
    losses, matches = criterion(out, encoded, goals)
    objects = [Target(torch.zeros_like(t.labels), t.boxes) for t in goals]
    found = encoded.proposals
    expected = focal_losses(
        found.logits,
        found.boxes_logit.sigmoid(),
        matches.encoder,
        objects,
        count=5,
        skipped=encoded.mask if ignore_padding else None,
        alpha=0.4,  # as the decoder's
    )
    assert_losses(losses, "_enc", expected)
    tokens = torch.cat(matches.encoder.queries)
    assert len(tokens) >= 5
    if ignore_padding:
        assert (matches.encoder.queries[1] < 5).all()
    padding = torch.full_like(found.logits, 0.0).requires_grad_()
    again = ProposalSet(padding, *list(vars(found).values())[1:])
    losses, _ = criterion(out, Encoded(**{**vars(encoded), "proposals": again}), goals)
    losses["loss_ce_enc"].backward()
    assert bool(padding.grad[1, 5:].any()) != ignore_padding


def test_the_encoder_stage_takes_the_decoders_assigner_unless_told():
    one, two = HungarianAssigner(), HungarianAssigner()
    parts = {"classification": FocalLoss(), "weights": WEIGHTS}
    assert Criterion(assigner=one, **parts).encoder_assigner is one
    assert Criterion(assigner=one, encoder_assigner=two, **parts).encoder_assigner is two
    # one sigmoid has no softmax cost
    softmax = HungarianAssigner(classification="softmax")
    made = Criterion(assigner=softmax, classification=SoftmaxLoss(), weights=WEIGHTS)
    assert made.encoder_assigner.classification == "focal"


def test_overlaps_are_with_the_reference_and_shared_by_layers():
    goals, out = targets(3, 2), decoded()
    assigner = OverlapAssigner(positive=0.3, positive_fraction=1.0)
    criterion = Criterion(classification=FocalLoss(), assigner=assigner, weights=WEIGHTS)
    losses, matches = criterion(out, memory(proposals=False), goals)
    assert all(match is matches[0] for match in matches.layers)
    several = torch.bincount(matches[0].targets[0]).max()
    assert several > 1  # one target teaches several, and still counts once
    for layer in range(LAYERS):
        expected = focal_losses(out.logits[layer], out.boxes[layer], matches[layer], goals, count=5)
        assert_losses(losses, suffix(layer), expected)


def test_overlaps_are_with_references_and_anchors_not_with_predictions():
    goals, out, encoded = targets(3, 2), decoded(), memory()
    assigner = OverlapAssigner(positive=0.3, positive_fraction=1.0)
    criterion = Criterion(classification=FocalLoss(), assigner=assigner, weights=WEIGHTS)
    _, matches = criterion(out, encoded, goals)
    for match, compared in (
        (matches[0], out.reference),
        (matches.encoder, encoded.proposals.anchors),
    ):
        for b, goal in enumerate(goals):
            iou = box_iou(to_xyxy(goal.boxes), to_xyxy(compared[b]))
            if compared is not out.reference:
                iou[:, encoded.mask[b]] = 0
            assert all(map(torch.equal, match.pair(b), assigner.pairs(iou)))


class Fixed:
    """Pairs that somebody else decided."""

    def __init__(self, *pairs):
        queries = [torch.tensor([q for q, _ in image]).long() for image in pairs]
        self.match = Match(queries, [torch.tensor([t for _, t in image]).long() for image in pairs])

    def ask(self, stage):
        return []

    def answer(self, stage, asked):
        return [self.match] * len(stage.logits)


def test_a_query_of_two_targets_learns_both_boxes_and_the_class_written_last():
    goals = [Target(torch.tensor([0, 2]), torch.rand(2, 4).double() * 0.5 + 0.2)]
    out = decoded(1)
    criterion = Criterion(
        classification=FocalLoss(), assigner=Fixed([(4, 0), (4, 1)]), weights=WEIGHTS
    )
    losses, _ = criterion(out, memory(1, proposals=False), goals)
    apart, outside = box_sums(out.boxes[-1, 0], [(4, 0), (4, 1)], goals[0])
    ce = focal_sum(out.logits[-1, 0], {4: [2]}, 0.25, 2.0)
    assert_losses(losses, "", [1.5 * ce / 2, 4 * apart / 2, 3 * outside / 2])


def noise(groups=2):
    """Two images with two and one objects, three slots a group of which some are empty."""
    torch.manual_seed(8)
    image = torch.tensor([0, 0, 1] * groups)
    slot = torch.tensor([0, 1, 0, 3, 4, 3][: 3 * groups])
    return DenoisingQueries(
        content=torch.zeros(2, 3 * groups, 8),
        reference_logit=torch.zeros(2, 3 * groups, 4),
        group=torch.arange(groups).repeat_interleave(3),
        image=image,
        slot=slot,
        labels=torch.randint(CLASSES, (3 * groups,)),
        boxes=torch.rand(3 * groups, 4).double() * 0.5 + 0.2,
        groups=groups,
    )


def denoised(auxiliary):
    noised, slots = noise(), decoded(queries=6, seed=4)
    whole = Decoded(*list(vars(decoded()).values())[:4], denoising=slots)
    criterion = Criterion(
        classification=FocalLoss(),
        assigner=HungarianAssigner(),
        weights=WEIGHTS,
        auxiliary=auxiliary,
    )
    losses, _ = criterion(whole, memory(proposals=False), targets(2, 1), denoising=noised)
    return criterion, losses, whole, noised


def test_denoising_slots_learn_their_own_target():
    _, losses, whole, noised = denoised(True)
    for layer in range(LAYERS):
        ce = apart = outside = 0.0
        for t in range(6):
            b, slot = int(noised.image[t]), int(noised.slot[t])
            logits = whole.denoising.logits[layer, b, [slot]]
            ce += focal_sum(logits, {0: [int(noised.labels[t])]}, 0.25, 2.0)
            goal = Target(noised.labels, noised.boxes)
            one, two = box_sums(whole.denoising.boxes[layer, b], [(slot, t)], goal)
            apart, outside = apart + one, outside + two
        count = 3 * 2  # objects times groups
        expected = [1.5 * ce / count, 4 * apart / count, 3 * outside / count]
        assert_losses(losses, f"_dn{suffix(layer)}", expected)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_denoising_has_the_layers_of_the_other_losses(auxiliary):
    _, losses, _, _ = denoised(auxiliary)
    ends = ["", "_0", "_1"] if auxiliary else [""]
    names = {f"loss_{n}_dn{e}" for n in ("ce", "bbox", "giou") for e in ends}
    assert {name for name in losses if "_dn" in name} == names


def test_allowed_needs_a_column_for_every_target():
    goals, allowed = targets(3, 1), torch.ones(QUERIES, 3, dtype=torch.bool)
    criterion = Criterion(classification=FocalLoss(), assigner=HungarianAssigner(), weights=WEIGHTS)
    allowed[:, 2] = False
    _, matches = criterion(decoded(), memory(proposals=False), goals, allowed=allowed)
    assert sorted(matches[0].targets[0].tolist()) == [0, 1]
    for columns in (1, 2):
        with pytest.raises(
            UserError, match=rf"allowed is \({QUERIES}, {columns}\).*an image has 3"
        ):
            criterion(decoded(), memory(proposals=False), goals, allowed=allowed[:, :columns])
    with pytest.raises(UserError, match=f"a row for each of {QUERIES} queries"):
        criterion(decoded(), memory(proposals=False), goals, allowed=allowed[:1])


def test_no_layer_teaches_another():
    out = decoded()
    logits, boxes = out.logits.requires_grad_(), out.boxes.requires_grad_()
    criterion = Criterion(classification=FocalLoss(), assigner=HungarianAssigner(), weights=WEIGHTS)
    losses, matches = criterion(out, memory(proposals=False), targets(2, 1))
    (losses["loss_ce_1"] + losses["loss_bbox_1"] + losses["loss_giou_1"]).backward()
    assert not logits.grad[[0, 2]].any() and not boxes.grad[[0, 2]].any()
    assert logits.grad[1].all()
    matched = torch.zeros(2, QUERIES, dtype=torch.bool)
    for b in range(2):
        matched[b, matches[1].queries[b]] = True
    assert torch.equal(boxes.grad[1].any(-1), matched)


def test_class_error_is_the_share_of_matched_queries_that_name_another_class():
    goals, out = targets(3, 1), decoded()
    goals[1].labels[:] = 1
    logits = out.logits
    pairs = ([(0, 0), (1, 1), (2, 2)], [(5, 0)])
    for b, image in enumerate(pairs):
        for query, target in image:
            logits[-1, b, query, goals[b].labels[target]] = 8.0
    logits[-1, 0, 1, (goals[0].labels[1] + 1) % (CLASSES - 1)] = 9.0
    logits[-1, 1, 5, CLASSES - 1] = 9.0  # the class of "no object" with a softmax
    for loss, expected in ((FocalLoss(), 50.0), (SoftmaxLoss(), 25.0)):
        criterion = Criterion(classification=loss, assigner=Fixed(*pairs), weights=WEIGHTS)
        drain_metrics()
        criterion(out, memory(proposals=False), goals)
        assert drain_metrics()["class_error"] == pytest.approx(expected)


@pytest.mark.parametrize("counts", [(3, 1), (0, 0)])
def test_cardinality_error_counts_what_is_called_an_object(counts):
    out = decoded()
    criterion = Criterion(
        classification=SoftmaxLoss(),
        assigner=HungarianAssigner(classification="softmax"),
        weights=WEIGHTS,
    )
    drain_metrics()
    criterion(out, memory(proposals=False), targets(*counts))
    called = (out.logits[-1].argmax(-1) != CLASSES - 1).sum(1).tolist()
    expected = sum(abs(found - n) for found, n in zip(called, counts, strict=True)) / 2
    assert drain_metrics()["cardinality_error"] == pytest.approx(expected)


@pytest.mark.parametrize("classification", [FocalLoss(), SoftmaxLoss()])
def test_metrics_do_not_depend_on_the_batch(classification):
    """Ranks reduce them together: a name that one rank lacks would mix all others up."""
    criterion = Criterion(
        classification=classification, assigner=HungarianAssigner(), weights=WEIGHTS
    )
    names = []
    for counts in ((3, 1), (0, 0)):
        drain_metrics()
        criterion(decoded(), memory(proposals=False), targets(*counts))
        metrics = drain_metrics()
        assert all(torch.isfinite(value) for value in metrics.values())
        names.append(set(metrics))
    assert names[0] == names[1]


def test_losses_are_those_of_half_precision_predictions_in_single():
    out = decoded()
    criterion = Criterion(classification=FocalLoss(), assigner=HungarianAssigner(), weights=WEIGHTS)
    half = Decoded(out.hidden, out.logits.bfloat16(), out.boxes.float(), None)
    losses, _ = criterion(half, memory(proposals=False), targets(2, 1))
    assert {value.dtype for value in losses.values()} == {torch.float32}


def test_objects_are_averaged_over_ranks(monkeypatch):
    for counts, expected in (((0, 0), 1), ((4, 1), 5)):
        assert average_count(targets(*counts), torch.zeros(1)).item() == expected
    monkeypatch.setattr("d2_unsupdet.detectors.criterion.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda count: count.add_(2))
    for counts, expected in (((0, 0), 1), ((4, 1), 3.5)):  # the other rank has two objects
        assert average_count(targets(*counts), torch.zeros(1)).item() == expected
