"""Where queries come from, and which of them see each other."""

import pytest
import torch

from d2_unsupdet.detectors import Denoising, LearnedAnchors, LearnedQueries, ProposalQueries
from d2_unsupdet.detectors.queries import repeat_regions
from d2_unsupdet.detectors.structures import (
    Decoded,
    Encoded,
    Match,
    Matches,
    ProposalSet,
    Queries,
    Regions,
    Target,
    group_of,
)
from d2_unsupdet.errors import UserError
from tests.detectors.test_decoder import wave
from tests.detectors.test_encoder import shaken

DIM = 16


def memory(proposals=None):
    torch.manual_seed(0)
    tokens = torch.randn(2, 7, DIM).double()
    mask = torch.zeros(2, 7, dtype=torch.bool)
    return Encoded(tokens, mask, tokens, [(1, 7)], torch.ones(2, 1, 2).double(), proposals)


def found():
    torch.manual_seed(1)
    logit = torch.randn(2, 7, 4).double().requires_grad_()
    tokens = torch.randn(2, 7, DIM).double().requires_grad_()
    selected = torch.tensor([[6, 2, 0, 1], [1, 5, 3, 2]])
    anchors = torch.rand(2, 7, 4).double()
    return ProposalSet(torch.randn(2, 7, 1).double(), logit, anchors, tokens, selected)


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("reference", ["none", "point", "mlp"])
def test_learned_queries_are_their_table(content, reference):
    source = shaken(LearnedQueries(num_queries=6, dim=DIM, content=content, reference=reference))
    made, table = source(memory()), source.embed.weight
    assert table.shape == (6, DIM * (1 + content))
    for b in range(2):
        assert torch.equal(made.position[b], table[:, :DIM])
        if content:
            assert torch.equal(made.content[b], table[:, DIM:])
    assert content or not made.content.any()
    assert made.group is None and made.attention_mask() is None
    if reference == "none":
        assert made.reference_logit is None
    else:
        torch.testing.assert_close(made.reference_logit[1], source.reference(table[:, :DIM]))


def test_learned_queries_start_normal_with_xavier_references():
    source = LearnedQueries(num_queries=300, dim=64, reference="point")
    assert 0.95 < source.embed.weight.std() < 1.05
    bound = (6 / 66) ** 0.5
    assert 0.9 * bound < source.reference.weight.abs().max() <= bound
    assert not source.reference.bias.any()
    two = LearnedQueries(num_queries=3, dim=64, reference="mlp").reference.layers
    assert 0.9 * bound < two[1].weight.abs().max() <= bound and two[1].bias.any()
    assert [layer.out_features for layer in two] == [64, 2]


def test_regions_are_added_to_the_position_before_the_reference():
    source = shaken(LearnedQueries(num_queries=6, dim=DIM, content=True, reference="mlp"))
    regions = torch.randn(2, 3, DIM).double()
    made, plain = source(memory(), Regions(regions)), source(memory())
    for n in range(6):
        place = plain.position[:, n] + regions[:, n // 2]
        torch.testing.assert_close(made.position[:, n], place)
        torch.testing.assert_close(made.reference_logit[:, n], source.reference(place))
    assert torch.equal(made.content, plain.content)
    assert made.group.tolist() == [0, 0, 1, 1, 2, 2]


def test_anchors_are_their_tables_and_regions_content():
    source = shaken(LearnedAnchors(num_queries=6, dim=DIM))
    regions = torch.randn(2, 2, DIM).double()
    made, plain = source(memory(), Regions(regions)), source(memory())
    for b in range(2):
        assert torch.equal(plain.content[b], source.content.weight)
        assert torch.equal(plain.reference_logit[b], source.anchors.weight)
        for n in range(6):
            expected = source.content.weight[n] + regions[b, n // 3]
            torch.testing.assert_close(made.content[b, n], expected)
    assert torch.equal(made.reference_logit, plain.reference_logit)
    assert plain.position is None and plain.denoising is None
    fresh = LearnedAnchors(num_queries=400, dim=64)
    assert 0.95 < fresh.content.weight.std() < 1.05 and 0.9 < fresh.anchors.weight.std() < 1.1


def targets(*counts):
    return [Target(torch.zeros(n).long(), torch.rand(n, 4), "t") for n in counts]


def test_the_last_channel_says_whether_a_query_is_noise():
    source = LearnedAnchors(num_queries=6, dim=DIM, denoising=Denoising(num_classes=3, dim=DIM))
    source = shaken(source).train()
    assert source.content.weight.shape == (6, DIM - 1)
    regions = torch.randn(2, 2, DIM).double()
    for made in (
        source(memory(), None, targets(2, 1)),
        source(memory(), Regions(regions), targets(2, 1)),
    ):
        assert not made.content[..., -1].any()
        assert made.denoising.content[0, :, -1].tolist() == [1.0] * 10
    assert source.eval()(memory(), None, targets(2, 1)).denoising is None
    assert source.train()(memory()).denoising is None
    empty = source(memory(), None, targets(0, 0))
    assert empty.denoising.content.shape == (2, 0, DIM)
    empty.content.sum().backward()
    assert source.denoising.labels.weight.grad is not None  # ranks wait for each other's
    assert not source.denoising.labels.weight.grad.any()


@pytest.mark.parametrize("token_content", [False, True])
def test_proposal_queries_embed_the_box(token_content):
    source = shaken(ProposalQueries(dim=DIM, token_content=token_content))
    chosen = found()
    made = source(memory(chosen))
    for b in range(2):
        for n, token in enumerate(chosen.selected[b]):
            logit = chosen.boxes_logit[b, token]
            assert torch.equal(made.reference_logit[b, n], logit)
            place = wave(logit.sigmoid(), DIM // 2)  # x, y, w, h
            both = source.position_norm(source.position_proj(place))
            content = both[DIM:]
            if token_content:
                seen = source.content_proj(chosen.tokens[b, token])
                content = content + source.content_norm(seen)
            torch.testing.assert_close(made.position[b, n], both[:DIM], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(made.content[b, n], content, rtol=1e-5, atol=1e-6)
    assert not made.reference_logit.requires_grad
    made.content.sum().backward()
    assert chosen.boxes_logit.grad is None and chosen.tokens.grad is None


def test_proposal_queries_start_xavier():
    source = ProposalQueries(dim=64, token_content=True)
    for linear, width in ((source.position_proj, 128), (source.content_proj, 64)):
        bound = (6 / (2 * width)) ** 0.5
        assert 0.95 * bound < linear.weight.abs().max() <= bound and linear.bias.any()


def test_regions_share_the_best_proposals():
    source = shaken(ProposalQueries(dim=DIM, token_content=True))
    regions = torch.randn(2, 3, DIM).double()
    made, plain = source(memory(found()), Regions(regions)), source(memory(found()))
    assert made.group.tolist() == [0, 1, 2]
    for m in range(3):
        assert torch.equal(made.reference_logit[:, m], plain.reference_logit[:, 0])
        torch.testing.assert_close(made.content[:, m], plain.content[:, 0] + regions[:, m])


def test_queries_refuse_what_they_cannot_do():
    with pytest.raises(UserError, match="none, point and mlp, not box"):
        LearnedQueries(num_queries=3, reference="box")
    with pytest.raises(UserError, match="needs model.proposals"):
        ProposalQueries(dim=DIM).double()(memory())
    for count in (0, 4):
        with pytest.raises(UserError, match=f"6 queries cannot be shared equally by {count}"):
            repeat_regions(Regions(torch.zeros(2, count, DIM)), 6)
    for count in (0, 5):
        source = ProposalQueries(dim=DIM).double()
        with pytest.raises(UserError, match=f"4 proposals cannot be shared by {count} regions"):
            source(memory(found()), Regions(torch.zeros(2, count, DIM).double()))


def test_neighbours_share_a_group():
    assert group_of(8, 4, torch.device("cpu")).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    regions, group = repeat_regions(Regions(torch.arange(6.0).view(1, 3, 2)), 6)
    assert regions[0, :, 0].tolist() == [0, 0, 2, 2, 4, 4] and group.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_dropped_region_leaves_its_query_as_it_was():
    source = shaken(LearnedQueries(num_queries=6, dim=DIM, content=True, reference="mlp"))
    keep = torch.tensor([[1, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    regions, plain = torch.randn(2, 3, DIM).double(), source(memory())
    made = source(memory(), Regions(regions, keep))
    whole = source(memory(), Regions(regions))
    for b, q in ((0, 1), (1, 0)):
        assert torch.equal(made.position[b, q], plain.position[b, q])
    assert torch.equal(made.position[keep == 1], whole.position[keep == 1])


@pytest.mark.parametrize("source", ["learned", "anchors", "proposals"])
def test_fewer_regions_can_use_fewer_queries(source):
    encoded = memory(found())
    regions = torch.randn(2, 2, DIM).double()
    if source == "proposals":
        made = shaken(ProposalQueries(dim=DIM))(encoded, Regions(regions, each=1))
        assert made.content.shape[1] == 2 and made.reference_logit.shape[1] == 2
        return
    kind = {"learned": LearnedQueries, "anchors": LearnedAnchors}[source]
    part = shaken(
        kind(num_queries=6, dim=DIM, **({"content": True} if source == "learned" else {}))
    )
    third = torch.cat([regions, torch.randn(2, 1, DIM).double()], dim=1)
    made, whole = part(encoded, Regions(regions, each=2)), part(encoded, Regions(third))
    assert made.group.tolist() == [0, 0, 1, 1]
    assert torch.equal(made.content, whole.content[:, :4])
    with pytest.raises(
        UserError, match="2 regions of 4 queries each need 8, and the detector has 6"
    ):
        part(encoded, Regions(regions, each=4))


@pytest.mark.parametrize("groups", [None, [0, 0, 1]])
@pytest.mark.parametrize("noised", [False, True])
def test_who_sees_whom(groups, noised):
    group = None if groups is None else torch.tensor(groups)
    denoising = None
    if noised:
        table = Denoising(num_classes=3, dim=DIM, groups=2)
        denoising = table(targets(2, 1))
    mask = Queries(torch.zeros(2, 3, DIM), group=group, denoising=denoising).attention_mask()
    if groups is None and not noised:
        assert mask is None
        return
    slots = [0, 0, 1, 1] if noised else []
    total = len(slots) + 3
    assert mask.shape == (total, total)
    for row in range(total):
        for column in range(total):
            r, c = row - len(slots), column - len(slots)
            if r < 0 and c < 0:
                hidden = slots[row] != slots[column]
            elif r >= 0 and c >= 0:
                hidden = groups is not None and groups[r] != groups[c]
            else:
                hidden = r >= 0  # noise sees the matching queries, they do not see noise
            assert bool(mask[row, column]) == hidden


def test_levels_and_rows_are_taken_apart_again():
    tokens = torch.arange(2 * 8 * 3).view(2, 8, 3).float()
    encoded = Encoded(tokens, torch.zeros(2, 8), tokens, [(2, 3), (1, 2)], torch.ones(2, 2, 2))
    assert torch.equal(encoded.level(0)[1, :, 1, 2], tokens[1, 5])
    assert torch.equal(encoded.level(1)[0, :, 0, 1], tokens[0, 7])
    assert encoded.level(0).shape == (2, 3, 2, 3) and encoded.level(1).shape == (2, 3, 1, 2)


def test_noise_is_split_from_the_others():
    values = torch.arange(2 * 1 * 5 * 2).view(2, 1, 5, 2).float()
    whole = Decoded(values, values + 100, values + 200, values[0] + 300)
    rest = whole.split(2)
    assert torch.equal(rest.hidden, values[:, :, 2:])
    assert torch.equal(rest.denoising.logits, values[:, :, :2] + 100)
    assert torch.equal(rest.boxes, values[:, :, 2:] + 200)
    assert torch.equal(rest.reference, values[0, :, 2:] + 300)
    assert torch.equal(rest.denoising.reference, values[0, :, :2] + 300)
    assert torch.equal(whole.split(0).hidden, whole.hidden)
    assert Decoded(values, values, values).split(2).denoising.reference is None


def test_matches_are_reached_by_layer_and_image():
    match = Match([torch.tensor([3]), torch.tensor([1])], [torch.tensor([0]), torch.tensor([2])])
    assert len(match) == 2 and match.pair(1) == (torch.tensor([1]), torch.tensor([2]))
    assert Matches([match])[0] is match and Matches([match]).encoder is None
    assert len(Target(torch.zeros(3), torch.zeros(3, 4), "x")) == 3


@pytest.mark.parametrize("reference", ["point", "mlp"])
def test_reference_points_are_not_rounded_by_mixed_precision(reference):
    torch.manual_seed(0)
    source = LearnedQueries(num_queries=5, dim=16, reference=reference)
    encoded = Encoded(*[torch.zeros(1, 1, 16)] * 3, [(1, 1)], torch.ones(1, 1, 2))
    plain = source(encoded).reference_logit
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(source(encoded).reference_logit, plain)
