"""Decoders against torch's layers and by hand: places, refinement, who gets gradient, who sees."""

import math

import pytest
import torch
from torch import nn

from d2_unsupdet.detectors import (
    ConditionalDecoder,
    DeformableDecoder,
    DenseDecoder,
    Heads,
)
from d2_unsupdet.detectors.attention import Step
from d2_unsupdet.detectors.decoder import AnchorPosition, ConditionalPosition
from d2_unsupdet.detectors.structures import DenoisingQueries, Encoded, Queries
from tests.detectors.test_encoder import shaken, torch_names

DIM = 16
NAMES = {
    "self_attn.": "self_attn.",
    "cross_attn.": "multihead_attn.",
    "ffn.": "",
    "norm_self.": "norm1.",
    "norm_cross.": "norm2.",
    "norm_ffn.": "norm3.",
}
SMALL = {"dim": DIM, "heads": 4, "num_layers": 3, "ffn_dim": 24}


def memory(*, position=True, levels=2):
    torch.manual_seed(2)
    shapes = [(2, 3), (1, 2)][:levels]
    tokens = sum(h * w for h, w in shapes)
    mask = torch.zeros(2, tokens, dtype=torch.bool)
    mask[1, 2] = mask[1, 5] = True
    place = torch.randn(2, tokens, DIM).double()
    ratios = torch.tensor([[[1.0, 1.0]] * levels, [[2 / 3, 1.0], [0.5, 1.0]][:levels]]).double()
    memory = torch.randn(2, tokens, DIM).double()
    return Encoded(memory, mask, place * position, shapes, ratios)


def queries(width=None, *, count=5, position=True):
    torch.manual_seed(4)
    content, place = torch.randn(2, count, DIM).double(), torch.randn(2, count, DIM).double()
    logit = None if width is None else torch.randn(2, count, width).double()
    return Queries(content, place if position else None, logit)


def heads_for(layers=3, *, shared=False, width=4):
    return shaken(Heads(num_classes=4, dim=DIM, num_layers=layers, shared=shared))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_dense_decoder_equals_torchs(pre_norm):
    decoder = shaken(DenseDecoder(**SMALL, pre_norm=pre_norm))
    encoded, start = memory(position=False), queries()
    start = Queries(start.content, torch.zeros_like(start.position))
    decoded = decoder(encoded, start, heads_for())
    x = start.content
    for number, layer in enumerate(decoder.layers):
        twin = nn.TransformerDecoderLayer(
            DIM, 4, 24, dropout=0.0, batch_first=True, norm_first=pre_norm
        )
        twin.load_state_dict(torch_names(layer.state_dict(), NAMES))
        x = twin.double()(x, encoded.memory, memory_key_padding_mask=encoded.mask)
        # the norm is for the heads; the stream goes on without it
        torch.testing.assert_close(decoded.hidden[number], decoder.norm(x))
    assert decoded.reference is None


def test_places_enter_queries_and_keys_but_not_values():
    decoder = shaken(DenseDecoder(**{**SMALL, "num_layers": 1}))
    encoded, start = memory(), queries()
    layer = decoder.layers[0]
    own, cross = (nn.MultiheadAttention(DIM, 4, batch_first=True).double() for _ in range(2))
    own.load_state_dict(layer.self_attn.state_dict())
    cross.load_state_dict(layer.cross_attn.state_dict())
    x, e = start.content, start.position
    x = layer.norm_self(x + own(x + e, x + e, x)[0])
    keys = encoded.memory + encoded.position
    x = layer.norm_cross(x + cross(x + e, keys, encoded.memory, key_padding_mask=encoded.mask)[0])
    x = decoder.norm(layer.norm_ffn(x + layer.ffn(x)))
    torch.testing.assert_close(decoder(encoded, start, heads_for()).hidden[0], x)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("refine", [False, True])
def test_deformable_decoder_by_hand(width, refine):
    decoder = shaken(DeformableDecoder(**SMALL, levels=2, refine=refine))
    encoded, start, heads = memory(), queries(width), heads_for()
    decoded = decoder(encoded, start, heads)
    assert isinstance(decoder.norm, nn.Identity)
    x, reference = start.content, start.reference_logit.sigmoid()
    torch.testing.assert_close(decoded.reference, reference)
    for number, layer in enumerate(decoder.layers):
        x = layer(x, Step(encoded, start.position, None, reference, None))
        logit = heads.boxes[number](x)
        base = torch.log(reference / (1 - reference))
        logit = torch.cat(
            [logit[..., : base.shape[-1]] + base, logit[..., base.shape[-1] :]], dim=-1
        )
        torch.testing.assert_close(decoded.hidden[number], x)
        torch.testing.assert_close(decoded.boxes[number], logit.sigmoid())
        torch.testing.assert_close(decoded.logits[number], heads.classes[number](x))
        if refine:
            reference = logit.sigmoid()


@pytest.mark.parametrize("refine", [False, True])
def test_a_layers_boxes_do_not_teach_the_heads_before(refine):
    decoder = shaken(DeformableDecoder(**SMALL, levels=2, refine=refine))
    encoded, start, heads = memory(), queries(2), heads_for()
    logit = start.reference_logit.requires_grad_()
    start = Queries(start.content, start.position, logit)
    decoder(encoded, start, heads).boxes[2].sum().backward()
    assert not heads.boxes[0].layers[-1].bias.grad.any()
    assert not heads.boxes[1].layers[-1].bias.grad.any()
    assert heads.boxes[2].layers[-1].bias.grad.abs().sum() > 0
    assert logit.grad.abs().sum() > 0  # the first reference learns through where it is read


def wave(values, dim):
    """(..., k) to (..., k * dim) in the order given."""
    blocks = []
    for value in values.unbind(-1):
        for c in range(dim):
            phase = 2 * math.pi * value / 10000 ** (2 * (c // 2) / dim)
            blocks.append(phase.cos() if c % 2 else phase.sin())
    return torch.stack(blocks, -1)


def test_conditional_decoder_scales_the_place_from_its_second_layer():
    decoder = shaken(ConditionalDecoder(**SMALL))
    encoded, start, heads = memory(), queries(2), heads_for(shared=True)
    decoded = decoder(encoded, start, heads)
    reference = start.reference_logit.sigmoid()
    sine = wave(reference.flip(-1), DIM // 2)  # y, x
    x = start.content
    for number, layer in enumerate(decoder.layers):
        scaled = sine if number == 0 else sine * decoder.position.scale(x)
        x = layer(x, Step(encoded, start.position, scaled, reference, None))
        torch.testing.assert_close(decoded.hidden[number], decoder.norm(x), rtol=1e-5, atol=1e-6)
    assert [layer.cross_attn.query_position is not None for layer in decoder.layers] == [
        True,
        False,
        False,
    ]
    torch.testing.assert_close(decoded.reference, reference)


@pytest.mark.parametrize("padded", [True, False])
def test_anchor_position_is_that_of_the_box_in_the_batch_or_in_the_image(padded):
    position = shaken(AnchorPosition(dim=DIM, padded=padded))
    encoded, content = memory(), torch.randn(2, 5, DIM).double()
    boxes = torch.rand(2, 5, 4).double()
    ratios = torch.tensor([[1.0, 1.0], [2 / 3, 1.0]]).double()[:, None]
    seen = boxes * torch.cat([ratios, ratios], -1) if padded else boxes
    place = position.project(wave(seen[..., [1, 0, 2, 3]], DIM // 2))  # y, x, w, h
    for layer, expected in ((0, place), (1, place * position.scale(content))):
        found, sine = position(layer, content, None, boxes, encoded)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert sine is None


def test_dab_places_follow_the_refined_boxes():
    decoder = shaken(DeformableDecoder(**SMALL, levels=2, refine=True, anchor_position=True))
    encoded, start, heads = memory(), queries(4, position=False), heads_for()
    decoded = decoder(encoded, start, heads)
    x, reference = start.content, start.reference_logit.sigmoid()
    for number, layer in enumerate(decoder.layers):
        place, _ = decoder.position(number, x, None, reference, encoded)
        x = layer(x, Step(encoded, place, None, reference, None))
        reference = heads.locate(number, x, reference)
        torch.testing.assert_close(decoded.hidden[number], x)


def test_conditional_position_gives_the_query_its_own_place():
    position = shaken(ConditionalPosition(dim=DIM))
    own = torch.randn(2, 5, DIM).double()
    found, _ = position(0, own, own, torch.rand(2, 5, 2).double(), memory())
    assert found is own


def with_noise(group=None):
    torch.manual_seed(6)
    noised = DenoisingQueries(
        content=torch.randn(2, 4, DIM).double(),
        reference_logit=torch.randn(2, 4, 4).double(),
        group=torch.tensor([0, 0, 1, 1]),
        image=torch.tensor([0]),
        slot=torch.tensor([0]),
        labels=torch.tensor([0]),
        boxes=torch.rand(1, 4).double(),
        groups=2,
    )
    start = queries(4, position=False)
    return Queries(start.content, None, start.reference_logit, group, noised)


def test_denoising_slots_stand_first_and_stay_unseen():
    decoder = shaken(DeformableDecoder(**SMALL, levels=2, refine=True, anchor_position=True))
    encoded, heads, noisy = memory(), heads_for(), with_noise()
    plain = decoder(encoded, queries(4, position=False), heads)
    both = decoder(encoded, noisy, heads)
    for name in ("hidden", "logits", "boxes", "reference"):
        torch.testing.assert_close(getattr(both, name), getattr(plain, name))
    torch.testing.assert_close(both.denoising.reference, noisy.denoising.reference_logit.sigmoid())
    assert both.denoising.boxes.shape == (3, 2, 4, 4) and plain.denoising is None
    # one group's content is invisible to the other
    noisy.denoising.content[:, 2:] += 1
    moved = decoder(encoded, noisy, heads)
    torch.testing.assert_close(moved.denoising.hidden[:, :, :2], both.denoising.hidden[:, :, :2])
    assert not torch.allclose(moved.denoising.hidden[:, :, 2:], both.denoising.hidden[:, :, 2:])


def test_residual_branches_drop_out_in_training():
    decoder = DenseDecoder(**{**SMALL, "num_layers": 1}, dropout=0.5).double().train()
    dropped = []
    layer = decoder.layers[0]
    layer.dropout.register_forward_hook(lambda module, inputs, out: dropped.append(out))
    decoder(memory(), queries(), heads_for())
    assert [0.3 < (out == 0).float().mean() < 0.7 for out in dropped] == [True] * 3
    assert layer.self_attn.dropout == layer.cross_attn.dropout == layer.ffn.dropout.p == 0.5


@pytest.mark.parametrize("kind", ["dense", "conditional", "deformable"])
def test_matrices_start_xavier_uniform(kind):
    made = {
        "dense": DenseDecoder,
        "conditional": ConditionalDecoder,
        "deformable": DeformableDecoder,
    }[kind]
    options = {"anchor_position": True} if kind == "deformable" else {}
    decoder = made(dim=64, num_layers=2, ffn_dim=192, **options)
    layer = decoder.layers[1]
    square = (6 / 128) ** 0.5
    for matrix, bound in [
        (layer.ffn.linear1.weight, (6 / 256) ** 0.5),
        (layer.self_attn.out_proj.weight, square),
    ]:
        assert 0.95 * bound < matrix.abs().max() <= bound
    assert not layer.self_attn.out_proj.bias.any()
    if kind == "conditional":
        for linear in (layer.cross_attn.query_sine, layer.self_attn.key_position):
            assert 0.95 * square < linear.weight.abs().max() <= square
        assert not layer.cross_attn.out_proj.bias.any()
    if kind == "deformable":
        assert not layer.cross_attn.sampling_offsets.weight.any()
        assert layer.cross_attn.sampling_offsets.bias.abs().max() == 4
    if decoder.position is not None:
        scale = decoder.position.scale.layers[0].weight
        assert 0.95 * square < scale.abs().max() <= square
