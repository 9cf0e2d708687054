"""What a detector looks at: the shares it mixes by, and places that padding does not move."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from d2_unsupdet.analysis.attention import HeatMap, Query, SamplingPoints, trace_attention
from d2_unsupdet.analysis.attention_pictures import (
    draw_attention,
    draw_heat,
    draw_points,
    share_outside,
)
from d2_unsupdet.analysis.pictures import PALETTE
from d2_unsupdet.detectors.attention import DenseCrossAttention, MultiHeadAttention, Step
from d2_unsupdet.errors import UserError
from tests.detectors.tiny import NAMES, sample, tiny_detr

DENSE = ("detr", "conditional_detr")


def trace(name, *images, layer=-1, **options):
    model = tiny_detr(name, **options).eval()
    return trace_attention(model, list(images or [sample(96, 128, 0)]), layer=layer)


def mixed_by(shares, value, heads, project):
    parts = shares @ value.unflatten(-1, (heads, -1)).transpose(1, 2)
    return project(parts.transpose(1, 2).flatten(2))


def test_dense_shares_are_those_the_layer_mixes_by():
    torch.manual_seed(0)
    attention = MultiHeadAttention(dim=16, heads=4)
    x, value = torch.randn(2, 2, 7, 16).unbind()
    padding = torch.arange(7).expand(2, -1) >= torch.tensor([[7], [4]])
    shares = attention.shares(x, x, padding=padding)
    assert torch.allclose(shares.sum(-1), torch.ones(2, 4, 7))
    assert shares[1, :, :, 4:].abs().max() == 0
    projected = value @ attention.in_proj_weight[32:].T + attention.in_proj_bias[32:]
    expected = attention.mix(x, x, value, padding=padding)
    got = mixed_by(shares, projected, 4, attention.out_proj)
    assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("layer", [0, 1])
def test_cross_attention_reads_are_those_the_layer_mixes_by(name, layer):
    model, seen = tiny_detr(name).eval(), {}
    cross = model.decoder.layers[layer].cross_attn
    cross.register_forward_hook(lambda _, given, out: seen.update(given=given, out=out))
    traced = trace_attention(model, [sample(96, 128, 0), sample(64, 64, 0)], layer=layer)
    content, step = seen["given"]
    assert isinstance(step, Step)
    if isinstance(cross, DenseCrossAttention):
        rows = slice(2 * cross.dim, None)
        value = step.encoded.memory @ cross.in_proj_weight[rows].T + cross.in_proj_bias[rows]
    else:
        value = cross.value(step.encoded.memory)
    got = mixed_by(cross.reads(content, step), value, cross.heads, cross.out_proj)
    assert torch.allclose(got, seen["out"], atol=1e-5)
    for image in (0, 1):
        (heat,) = traced.of_queries([3], image=image)
        assert isinstance(heat, HeatMap) and heat.values.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_detector_has_both_kinds(name):
    traced = trace(name)
    looks = traced.of_tokens([traced.token((0.2, 0.8)).index]) + traced.of_queries([0, 5])
    assert len(looks) == 3
    for attention in looks:
        assert isinstance(attention, HeatMap if name in DENSE else SamplingPoints)
        total = attention.values if isinstance(attention, HeatMap) else attention.weights
        assert total.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["detr", "conditional_detr", "deformable_detr", "deta"])
def test_padding_moves_nothing(name):
    small, large = sample(64, 96, 0), sample(128, 128, 0, seed=1)
    options = {"backbone__mask_padding": True, "decoder__padded_position": False}
    if name != "deta":
        options.pop("decoder__padded_position")
    alone, beside = trace(name, small, **options), trace(name, small, large, **options)
    tokens = [t.token((0.9, 0.6)) for t in (alone, beside)]
    assert tokens[0].place == tokens[1].place
    pairs = [
        (alone.of_tokens([tokens[0].index]), beside.of_tokens([tokens[1].index])),
        (alone.of_queries([0, 1]), beside.of_queries([0, 1])),
    ]
    for ours, theirs in pairs:
        for a, b in zip(ours, theirs, strict=True):
            for field, value in vars(a).items():
                assert torch.allclose(value, getattr(b, field), atol=1e-4), field


def pointing(model, layer, x, y):
    """Every head takes all from one point of the finest level, x, y cells from where it starts."""
    with torch.no_grad():
        for linear in (layer.sampling_offsets, layer.attention_weights):
            linear.weight.zero_()
            linear.bias.zero_()
        offsets = layer.sampling_offsets.bias.view(layer.heads, layer.levels, layer.points, 2)
        offsets[:, 0, 0] = torch.tensor([x, y])
        layer.attention_weights.bias.view(layer.heads, layer.levels, layer.points)[:, 0, 0] = 50.0
    return model


def heaviest(points):
    best = points.weights > 0.01
    assert points.weights[best].sum().item() == pytest.approx(1, abs=1e-4)
    assert set(points.levels[best].tolist()) == {0}
    return points.places[best].unique(dim=0)


def test_a_token_reads_two_cells_to_the_right_beside_padding():
    model = tiny_detr("deformable_detr").eval()
    pointing(model, model.encoder.layers[-1].self_attn, 2.0, -1.0)
    traced = trace_attention(model, [sample(64, 96, 0), sample(128, 128, 0)])
    token = traced.token((0.5, 0.5))  # of 12 x 8 cells of 8 pixels
    assert token.place == (6.5 / 12, 4.5 / 8)
    assert token.index == 4 * 16 + 6  # the padded map is 16 wide
    (places,) = heaviest(traced.of_tokens([token.index])[0])[None]
    pixels = places * torch.tensor([96.0, 64.0])
    assert torch.allclose(pixels, torch.tensor([[(6.5 + 2) * 8, (4.5 - 1) * 8]]), atol=1e-3)


def test_a_query_reads_a_cell_below_its_reference():
    model = tiny_detr("deformable_detr").eval()
    pointing(model, model.decoder.layers[-1].cross_attn, 0.0, 1.0)
    batch = [sample(64, 96, 0), sample(128, 128, 0)]
    traced = trace_attention(model, batch)
    reference = model.queries(traced.encoded).reference_logit.sigmoid()[0, 7]
    (place,) = heaviest(traced.of_queries([7])[0])
    assert torch.allclose(place, reference + torch.tensor([0, 1 / 8]), atol=1e-4)


def test_best_queries_are_sure_and_apart():
    traced = trace("deta")
    scores = torch.zeros_like(traced.scores)
    boxes = torch.tensor([0.2, 0.2, 0.1, 0.1]).repeat(1, scores.shape[1], 1)
    boxes[0, 4:, 0] = 0.8
    scores[0, :, 2] = torch.arange(scores.shape[1]) / 12
    made = type(traced)(traced.encoded, scores, boxes, None, traced.from_queries)
    best = made.best(count=3, threshold=0.2)
    assert [query.index for query in best] == [11, 3]  # the surest of each place
    assert best[0].label == 2 and best[0].center == pytest.approx((0.8, 0.2))
    assert made.best(threshold=0.99) == [] and made.of_tokens([0]) == []


def test_wrong_choices_are_sentences():
    traced = trace("detr")
    with pytest.raises(UserError, match="no query 12: the detector has 0 to 11"):
        traced.query(12)
    with pytest.raises(UserError, match="no level 1"):
        traced.token((0, 0), level=1)
    with pytest.raises(UserError, match="outside of the image"):
        traced.token((20, 0))
    with pytest.raises(UserError, match="no layer 2: the encoder has 0 to 1"):
        trace("detr", layer=2)
    with pytest.raises(UserError, match="Linear has no attention"):
        trace_attention(nn.Linear(1, 1), [])


def test_heat_is_brightest_at_the_peak():
    values = torch.zeros(4, 8)
    values[1, 6] = 1.0
    drawn = draw_heat(np.full((80, 160, 3), 90, dtype=np.uint8), HeatMap(values)).sum(axis=2)
    y, x = np.unravel_index(drawn.argmax(), drawn.shape)
    assert abs(y - 30) <= 6 and abs(x - 130) <= 6


def test_points_stand_at_their_place_with_an_area_of_their_weight():
    points = SamplingPoints(
        torch.tensor([[0.25, 0.5], [0.75, 0.5], [1.5, 0.5]]),
        torch.tensor([0.6, 0.15, 0.25]),
        torch.tensor([0, 1, 2]),
    )
    drawn = draw_points(np.zeros((400, 800, 3), dtype=np.uint8), points).astype(int)
    sides = []
    for color, x in ((PALETTE[0], 200), (PALETTE[1], 600)):
        near = np.abs(drawn - 0.85 * np.array(color)).max(axis=2) < 25
        ys, xs = np.nonzero(near)
        assert abs(ys.mean() - 200) < 1 and abs(xs.mean() - x) < 1
        sides.append(math.sqrt(near.sum()))
    assert sides[0] / sides[1] == pytest.approx(2, rel=0.15)
    assert share_outside(points) == pytest.approx(0.25)


def test_a_sheet_has_points_above_and_queries_below():
    traced = trace("deformable_detr")
    image = sample(96, 128, 0)["image"]
    query = Query(3, 1, 0.9, torch.tensor([0.1, 0.1, 0.4, 0.4]))
    sheet = draw_attention(image, traced, [query], [(0.2, 0.2), (0.5, 0.5)], ["a", "b"])
    assert sheet.shape == (2 * (240 + 24) + 8, 3 * 320 + 2 * 8, 3)
    none = draw_attention(image, traced, [], [(0.2, 0.2)], ["a", "b"])
    assert none.shape[1] == 2 * 320 + 8
