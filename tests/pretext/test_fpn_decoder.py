"""The decoder against its definition, level by level."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec

from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.fpn_decoder import FPNDecoder
from tests.pretext.tiny import tiny_resnet

SHAPES = {
    "res5": ShapeSpec(channels=7, stride=32),
    "res4": ShapeSpec(channels=5, stride=16),
    "res3": ShapeSpec(channels=3, stride=8),
}


def test_levels_are_added_from_coarse_to_fine():
    torch.manual_seed(0)
    decoder = FPNDecoder(input_shape=SHAPES, channels=4)
    maps = {
        "res3": torch.randn(2, 3, 11, 7),  # odd sizes: 3 x 2 becomes 6 x 4 becomes 11 x 7
        "res4": torch.randn(2, 5, 6, 4),
        "res5": torch.randn(2, 7, 3, 2),
    }
    x = None
    for level in ("res5", "res4", "res3"):
        layer = decoder.lateral[level]
        y = torch.einsum("oi,bihw->bohw", layer.weight[:, :, 0, 0], maps[level])
        y = y + layer.bias.view(1, -1, 1, 1)
        x = y if x is None else y + F.interpolate(x, size=y.shape[-2:], mode="bilinear")
    torch.testing.assert_close(decoder(maps), x)
    assert decoder.stride == 8 and decoder.channels == 4
    assert {name for name, _ in decoder.named_parameters()} == {
        f"lateral.{level}.{kind}" for level in SHAPES for kind in ("weight", "bias")
    }


def test_a_resnet_is_decoded_at_stride_4():
    resnet = tiny_resnet()
    decoder = FPNDecoder(input_shape=resnet.output_shape(), channels=128)
    assert decoder(resnet(torch.zeros(1, 3, 64, 96))).shape == (1, 128, 16, 24)
    assert decoder.levels == ["res5", "res4", "res3", "res2"] and decoder.stride == 4


def test_no_map_is_a_sentence():
    with pytest.raises(UserError, match="out_features"):
        FPNDecoder(input_shape={})
