"""Encoders against torch's layers with the same weights, reference points against loops."""

import pytest
import torch
from torch import nn

from d2_unsupdet.detectors import DeformableEncoder, DenseEncoder
from d2_unsupdet.detectors.encoder import token_centres, valid_ratio
from d2_unsupdet.errors import UserError

SHAPES = [(4, 6), (2, 3)]
NAMES = {  # ours to torch's
    "self_attn.": "self_attn.",
    "ffn.": "",
    "norm_self.": "norm1.",
    "norm_ffn.": "norm2.",
}


def torch_names(state, names):
    """A layer's state-dict under torch's parameter names."""
    result = {}
    for key, value in state.items():
        ours = next(name for name in names if key.startswith(name))
        result[names[ours] + key[len(ours) :]] = value
    return result


def scene(dim=16, levels=2, seed=0):
    """Maps, masks (the second image is smaller) and positions."""
    torch.manual_seed(seed)
    maps, masks, positions = [], [], []
    for height, width in SHAPES[:levels]:
        maps.append(torch.randn(2, dim, height, width).double())
        mask = torch.zeros(2, height, width, dtype=torch.bool)
        mask[1, height // 2 :] = True
        mask[1, :, 2 * width // 3 :] = True
        masks.append(mask)
        positions.append(torch.randn(2, height * width, dim).double())
    return maps, masks, positions


def shaken(module):
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module.double().eval()


@pytest.mark.parametrize("pre_norm", [False, True])
def test_dense_layers_equal_torchs(pre_norm):
    encoder = shaken(DenseEncoder(dim=16, heads=4, num_layers=3, ffn_dim=24, pre_norm=pre_norm))
    maps, masks, positions = scene(levels=1)
    found = encoder(maps, masks, [torch.zeros_like(p) for p in positions]).memory
    x, mask = maps[0].flatten(2).transpose(1, 2), masks[0].flatten(1)
    for layer in encoder.layers:
        twin = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=pre_norm)
        twin.load_state_dict(torch_names(layer.state_dict(), NAMES))
        twin = twin.double().train()  # not the fused kernel, which zeroes padding
        for module in twin.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        twin.self_attn.dropout = 0.0
        x = twin(x, src_key_padding_mask=mask)
    torch.testing.assert_close(found, encoder.norm(x))
    assert isinstance(encoder.norm, nn.LayerNorm) == pre_norm


@pytest.mark.parametrize("pre_norm", [False, True])
def test_position_enters_query_and_key_but_not_value(pre_norm):
    encoder = shaken(DenseEncoder(dim=16, heads=4, num_layers=1, ffn_dim=24, pre_norm=pre_norm))
    maps, masks, positions = scene(levels=1)
    found = encoder(maps, masks, positions)
    x, mask = maps[0].flatten(2).transpose(1, 2), masks[0].flatten(1)
    layer = encoder.layers[0]
    twin = nn.MultiheadAttention(16, 4, batch_first=True).double()
    twin.load_state_dict(layer.self_attn.state_dict())
    inner = layer.norm_self(x) if pre_norm else x
    placed = inner + positions[0]
    x = x + twin(placed, placed, inner, key_padding_mask=mask)[0]
    x = x if pre_norm else layer.norm_self(x)
    x = x + layer.ffn(layer.norm_ffn(x) if pre_norm else x)
    x = encoder.norm(x) if pre_norm else layer.norm_ffn(x)
    torch.testing.assert_close(found.memory, x)
    assert torch.equal(found.position, positions[0]) and torch.equal(found.mask, mask)
    assert found.shapes == [(4, 6)]


def test_residual_branches_drop_out_in_training():
    """Both branches of a layer, beside the attention weights and the feed-forward block."""
    encoder = DenseEncoder(dim=16, heads=4, num_layers=1, ffn_dim=24, dropout=0.5)
    layer = encoder.layers[0]
    dropped = []
    layer.dropout.register_forward_hook(lambda module, inputs, out: dropped.append(out))
    maps, masks, positions = scene(levels=1)
    encoder.double().train()(maps, masks, positions)
    assert [0.3 < (out == 0).float().mean() < 0.7 for out in dropped] == [True, True]
    assert layer.self_attn.dropout == layer.ffn.dropout.p == 0.5


def test_deformable_layer_reads_around_every_token():
    encoder = shaken(DeformableEncoder(dim=16, heads=4, num_layers=2, ffn_dim=24, levels=2))
    maps, masks, positions = scene()
    found = encoder(maps, masks, positions)
    x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
    mask = torch.cat([m.flatten(1) for m in masks], 1)
    embed = encoder.level_embed
    position = torch.cat([p + embed[level] for level, p in enumerate(positions)], 1)
    reference = torch.zeros(2, x.shape[1], 2, 2).double()
    for b in range(2):
        token = 0
        for height, width in SHAPES:
            used_x, used_y = (width, height) if b == 0 else (2 * width // 3, height // 2)
            for i in range(height):
                for j in range(width):
                    for k in range(2):
                        share = (1.0, 1.0) if b == 0 else (2 / 3, 1 / 2)
                        reference[b, token, k, 0] = (j + 0.5) / used_x * share[0]
                        reference[b, token, k, 1] = (i + 0.5) / used_y * share[1]
                    token += 1
    for layer in encoder.layers:
        x = layer.norm_self(x + layer.self_attn(x + position, reference, x, SHAPES, mask))
        x = layer.norm_ffn(x + layer.ffn(x))
    torch.testing.assert_close(found.memory, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.position, position)
    assert found.shapes == SHAPES


def test_valid_ratio_is_width_then_height():
    mask = torch.zeros(2, 4, 10, dtype=torch.bool)
    mask[1, 1:] = True
    mask[1, :, 7:] = True
    found = valid_ratio(mask, torch.float64)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0], [0.7, 0.25]]).double())


def test_centres_are_relative_to_what_is_no_padding():
    ratios = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.5, 0.75], [2 / 3, 0.5]]]).double()
    found = token_centres(SHAPES, ratios)
    token = 0
    for level, (height, width) in enumerate(SHAPES):
        for i in range(height):
            for j in range(width):
                for b in range(2):
                    x = (j + 0.5) / (ratios[b, level, 0] * width)
                    y = (i + 0.5) / (ratios[b, level, 1] * height)
                    torch.testing.assert_close(found[b, token], torch.stack([x, y]))
                token += 1
    assert token == found.shape[1]


@pytest.mark.parametrize("kind", ["dense", "deformable"])
def test_matrices_start_xavier_uniform(kind):
    made = DenseEncoder if kind == "dense" else DeformableEncoder
    encoder = made(dim=64, num_layers=1, ffn_dim=192)
    layer, bound = encoder.layers[0], (6 / (64 + 192)) ** 0.5
    for linear in (layer.ffn.linear1, layer.ffn.linear2):
        assert 0.98 * bound < linear.weight.abs().max() <= bound
    attention = layer.self_attn
    if kind == "dense":
        stacked = (6 / (64 + 3 * 64)) ** 0.5
        assert 0.98 * stacked < attention.in_proj_weight.abs().max() <= stacked
        assert encoder.level_embed is None
        return
    assert not attention.sampling_offsets.weight.any() and attention.sampling_offsets.bias.any()
    assert not attention.attention_weights.weight.any()
    rays = attention.sampling_offsets.bias.view(8, 4, 4, 2)
    assert rays[1, 2, 3].tolist() == pytest.approx([4.0, 4.0])
    assert rays[4, 0, 0].tolist() == pytest.approx([-1.0, 0.0], abs=1e-6)
    assert 0.8 < encoder.level_embed.std() < 1.2  # normal, where xavier would be 0.17


def test_a_neck_of_other_levels_is_refused():
    encoder = DeformableEncoder(dim=16, heads=4, num_layers=1, ffn_dim=24, levels=3)
    with pytest.raises(UserError, match="made for 3 levels, the neck gives 2"):
        encoder(*scene())


def test_an_encoder_without_layers_passes_its_input_on():
    maps, masks, positions = scene(levels=1)
    found = DenseEncoder(dim=16, num_layers=0)(maps, masks, positions)
    assert torch.equal(found.memory, maps[0].flatten(2).transpose(1, 2))
