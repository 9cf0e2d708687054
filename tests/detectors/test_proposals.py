"""The encoder stage: anchors, and the choice of tokens against a loop of its rules."""

import math

import pytest
import torch
from torchvision.ops import box_iou

from d2_unsupdet.detectors import Proposals, SpreadTokens, TopTokens
from d2_unsupdet.detectors.boxes import to_xyxy
from d2_unsupdet.detectors.structures import Encoded
from tests.detectors.test_encoder import shaken

SHAPES = [(6, 9), (3, 5), (2, 3)]


def memory(shapes=SHAPES, dim=16):
    """Two images; the second fills two thirds of each row and half of each column."""
    torch.manual_seed(1)
    masks, ratios = [], []
    for height, width in shapes:
        mask = torch.zeros(2, height, width, dtype=torch.bool)
        mask[1, math.ceil(height / 2) :] = True
        mask[1, :, math.ceil(2 * width / 3) :] = True
        masks.append(mask)
        used = [math.ceil(2 * width / 3) / width, math.ceil(height / 2) / height]
        ratios.append(torch.tensor([[1.0, 1.0], used], dtype=torch.float64))
    tokens = sum(h * w for h, w in shapes)
    return Encoded(
        memory=torch.randn(2, tokens, dim).double(),
        mask=torch.cat([m.flatten(1) for m in masks], 1),
        position=torch.zeros(2, tokens, dim).double(),
        shapes=list(shapes),
        valid_ratios=torch.stack(ratios, 1),
    )


@pytest.mark.parametrize("size, growth", [(0.05, 2.0), (0.1, 0.5), (0.3, 2.0)])
def test_anchors_are_boxes_of_fixed_size_around_the_cells(size, growth):
    made = Proposals(num_proposals=5, dim=16, anchor_size=size, anchor_growth=growth)
    proposals, encoded = shaken(made), memory()
    found = proposals(encoded)
    seen = []

    def remember(module, inputs):
        seen.append(inputs[0])

    handle = proposals.project.register_forward_pre_hook(remember)
    proposals(encoded)
    handle.remove()
    offset = proposals.boxes(found.tokens)
    usable_ones = 0
    for b in range(2):
        token = 0
        for level, (height, width) in enumerate(SHAPES):
            rows = height if b == 0 else math.ceil(height / 2)
            columns = width if b == 0 else math.ceil(2 * width / 3)
            side = size * growth**level
            for i in range(height):
                for j in range(width):
                    numbers = [(j + 0.5) / columns, (i + 0.5) / rows, side, side]
                    box = torch.tensor(numbers, dtype=torch.float64)
                    usable = i < rows and j < columns and bool(((box > 0.01) & (box < 0.99)).all())
                    if usable:
                        usable_ones += 1
                        torch.testing.assert_close(found.anchors[b, token], box)
                        logit = torch.log(box / (1 - box)) + offset[b, token]
                        torch.testing.assert_close(found.boxes_logit[b, token], logit)
                        assert torch.equal(seen[0][b, token], encoded.memory[b, token])
                    else:
                        assert found.anchors[b, token].tolist() == [1.0] * 4
                        assert found.boxes_logit[b, token].tolist() == [math.inf] * 4
                        assert found.boxes[b, token].tolist() == [1.0] * 4
                        assert not seen[0][b, token].any()
                    token += 1
    assert usable_ones > 20  # a side of 1.2 on the last level leaves the others
    torch.testing.assert_close(found.logits, proposals.classes(found.tokens))


def test_anchors_at_the_border_are_not_usable():
    """Every number lies between 0.01 and 0.99, the centre of the first of 60 cells at 0.0083."""
    for size, usable in ((0.05, [False] + [True] * 58 + [False]), (0.995, [False] * 60)):
        proposals = Proposals(num_proposals=5, dim=16, anchor_size=size)
        found = proposals.double()(memory([(1, 60)]))
        assert (found.anchors[0, :, 2] < 1).tolist() == usable


def test_selected_tokens_are_the_best_and_padding_comes_last():
    encoded = memory()
    proposals = shaken(Proposals(num_proposals=40, dim=16))
    found = proposals(encoded)
    for b in range(2):
        score = found.logits[b, :, 0].clone()
        usable = ~encoded.mask[b]
        score[~usable] = -math.inf
        expected = score.argsort(descending=True)[: int(usable.sum())][:40]
        assert torch.equal(found.selected[b, : len(expected)], expected)
        assert not usable[found.selected[b, len(expected) :]].any()
        assert len(found.selected[b].unique()) == 40
    rows = found.take(found.tokens)
    for b in range(2):
        assert torch.equal(rows[b], found.tokens[b, found.selected[b]])


def test_in_the_original_padding_competes():
    encoded = memory()
    proposals = shaken(Proposals(num_proposals=10, dim=16, ignore_padding=False))
    found = proposals(encoded)
    assert torch.equal(found.selected, found.logits[..., 0].topk(10).indices)


def test_the_choice_reads_the_first_channel_alone():
    encoded = memory()
    proposals = shaken(Proposals(num_proposals=10, dim=16, score_channels=4))
    before = proposals(encoded)
    with torch.no_grad():
        proposals.classes.weight[1:] *= 100
    after = proposals(encoded)
    assert before.logits.shape == (2, len(encoded.mask[0]), 4)
    assert torch.equal(before.selected, after.selected)


def test_there_are_never_more_proposals_than_tokens():
    found = shaken(Proposals(num_proposals=900, dim=16))(memory())
    assert found.selected.shape == (2, 75)
    assert found.selected.sort().values.tolist() == [list(range(75))] * 2


def test_proposals_start_at_their_anchors_and_one_per_cent():
    proposals = Proposals(num_proposals=5, dim=64, score_channels=3)
    torch.testing.assert_close(proposals.classes.bias, torch.full((3,), -4.59512))
    assert not proposals.boxes.layers[-1].weight.any() and not proposals.boxes.layers[-1].bias.any()
    bound = (6 / 128) ** 0.5
    assert 0.95 * bound < proposals.project.weight.abs().max() <= bound
    encoded = memory(dim=64)
    found = proposals.double()(encoded)
    usable = ~encoded.mask
    torch.testing.assert_close(found.boxes[usable], found.anchors[usable])


def spread(rank, boxes, shapes, count, candidates, threshold):
    """DETA's rules for one image, a token at a time."""
    level = [i for i, (h, w) in enumerate(shapes) for _ in range(h * w)]
    tokens = sorted(range(len(level)), key=lambda t: -float(rank[t]))
    corners = to_xyxy(boxes).clamp(0, 1)
    iou = box_iou(corners, corners).tolist()
    survivors = []
    for wanted in range(len(shapes)):
        mine = [t for t in tokens if level[t] == wanted][:candidates]
        kept = []
        for token in mine:
            if rank[token] == -math.inf:
                continue
            if all(iou[token][k] <= threshold for k in kept):
                kept.append(token)
        survivors += kept
    if len(survivors) < count:
        return tokens[:count]
    survivors.sort(key=lambda t: -float(rank[t]))
    chosen, used = [], [0] * len(shapes)
    for token in survivors:
        if used[level[token]] < count // len(shapes):
            used[level[token]] += 1
            chosen.append(token)
    for token in survivors:
        if len(chosen) < count and token not in chosen:
            chosen.append(token)
    return sorted(chosen, key=lambda t: -float(rank[t]))


def crowd(shapes, *, seed, invalid=0.0, spots=8):
    """Distinct scores; boxes around a few spots, so that many lie on each other."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(h * w for h, w in shapes)
    rank = torch.randperm(3 * tokens, generator=generator)[: 3 * tokens].view(3, tokens).float()
    rank[torch.rand(3, tokens, generator=generator) < invalid] = -math.inf
    centre = torch.rand(spots, 4, generator=generator) * 0.8 + 0.1
    boxes = centre[torch.randint(spots, (3, tokens), generator=generator)]
    return rank, boxes + 0.01 * torch.rand(3, tokens, 4, generator=generator)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "count, candidates, invalid, spots",
    [
        (20, 1000, 0.0, 40),
        (20, 7, 0.0, 4000),  # fewer candidates than the finest level has tokens
        (7, 1000, 0.0, 8),
        (2, 1000, 0.3, 40),  # no quota for three levels: the best of all
        (30, 1000, 0.5, 400),
        (60, 1000, 0.2, 4),  # too few survivors: plain best
    ],
)
def test_spread_tokens_follow_the_rules(seed, count, candidates, invalid, spots):
    rank, boxes = crowd(SHAPES, seed=seed, invalid=invalid, spots=spots)
    select = SpreadTokens(candidates=candidates, threshold=0.8)
    found = select(rank, boxes, SHAPES, count)
    assert found.shape == (3, count)
    for b in range(3):
        expected = spread(rank[b], boxes[b], SHAPES, count, candidates, 0.8)
        valid = int((rank[b, found[b]] > -math.inf).sum())
        assert found[b, :valid].tolist() == expected[:valid]
        assert len(found[b].unique()) == count
        assert (rank[b, found[b]].diff() <= 0).all() or valid < count


def test_boxes_outside_the_image_are_compared_by_what_lies_in_it():
    boxes = torch.tensor([[[0.0, 0.5, 0.2, 0.4], [0.0, 0.5, 0.2, 0.4], [0.9, 0.9, 0.1, 0.1]]])
    boxes[0, 1, 0], boxes[0, 1, 2] = -0.4, 1.0  # both end at 0.1 and begin at 0 or before
    rank = torch.tensor([[3.0, 2.0, 1.0]])
    found = SpreadTokens(threshold=0.9)(rank, boxes, [(1, 3)], 2)
    assert found.tolist() == [[0, 2]]


def test_boxes_on_each_other_stay_on_different_levels():
    boxes = torch.full((1, 4, 4), 0.5)
    rank = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    select = SpreadTokens()
    assert select(rank, boxes, [(1, 2), (1, 2)], 2).tolist() == [[0, 2]]
    # images do not suppress each other either
    both = select(rank.repeat(2, 1), boxes.repeat(2, 1, 1), [(1, 2), (1, 2)], 2)
    assert both.tolist() == [[0, 2]] * 2


@pytest.mark.parametrize("shapes", [[(1, 1)], [(1, 1), (1, 1)], [(3, 2), (1, 1), (1, 1)]])
@pytest.mark.parametrize("select", [TopTokens(), SpreadTokens()])
def test_tiny_maps_have_distinct_tokens(shapes, select):
    tokens = sum(h * w for h, w in shapes)
    boxes = torch.full((2, tokens, 4), 0.5)
    for count in range(1, tokens + 1):
        for rank in (torch.randn(2, tokens), torch.full((2, tokens), -math.inf)):
            found = select(rank, boxes, shapes, count)
            assert found.shape == (2, count)
            assert all(len(row.unique()) == count for row in found)


def test_survivors_do_not_depend_on_the_place_in_the_batch():
    """Boxes moved apart by large offsets in single precision would be rounded differently."""
    torch.manual_seed(0)
    shapes = [(20, 20), (10, 10)]
    boxes = torch.rand(1, 500, 4) * 0.02 + torch.tensor([0.5, 0.5, 0.3, 0.3])
    rank = torch.randn(1, 500)
    select = SpreadTokens(threshold=0.9)
    alone = select(rank, boxes, shapes, 20)
    many = select(rank.repeat(40, 1), boxes.repeat(40, 1, 1), shapes, 20)
    assert torch.equal(many, alone.repeat(40, 1))
