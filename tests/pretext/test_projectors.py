"""MoCo v2's head: known value, unit length, fp32. SimSiam's: layers, positions, whitening."""

import pytest
import torch

from d2_unsupdet.pretext.projectors import (
    ImageProjector,
    siamese_predictor,
    siamese_projector,
    unit,
)


def test_pools_then_maps_then_normalises():
    head = ImageProjector(in_dim=2, out_dim=2)
    with torch.no_grad():
        head.hidden.weight.copy_(torch.eye(2))
        head.hidden.bias.zero_()
        head.out.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        head.out.bias.copy_(torch.tensor([0.0, 4.0]))
    feature = torch.tensor([[[[2.0, 4.0]], [[-1.0, -3.0]]]])  # means 3 and -2; ReLU leaves 3 and 0
    torch.testing.assert_close(head(feature), torch.tensor([[0.6, 0.8]]))


def test_unit_is_fp32_under_autocast_and_safe_at_zero():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.bfloat16))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def layers(head: torch.nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in head]


@pytest.mark.parametrize("convolutional", [False, True])
def test_siamese_heads_have_the_layers_of_the_paper(convolutional):
    layer, norm = ("Conv2d", "BatchNorm2d") if convolutional else ("Linear", "BatchNorm1d")
    projector = siamese_projector((6, 5, 4, 3), convolutional=convolutional)
    assert layers(projector) == [layer, norm, "ReLU", layer, norm, "ReLU", layer, norm]
    assert [projector[i].bias for i in (0, 3, 6)] == [None] * 3
    assert [projector[i].affine for i in (1, 4, 7)] == [True, True, False]
    predictor = siamese_predictor(3, 8, convolutional=convolutional)
    assert layers(predictor) == [layer, norm, "ReLU", layer]
    assert predictor[0].bias is None and predictor[3].bias is not None
    biased = siamese_projector((6, 5, 3), convolutional=convolutional, last_bias=True)
    assert biased[0].bias is None and biased[3].bias is not None


def test_convolutional_heads_are_the_linear_ones_at_every_position():
    torch.manual_seed(0)
    maps = torch.randn(2, 6, 3, 4)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, 6)
    for linear, conv in (
        (siamese_projector((6, 5, 4)), siamese_projector((6, 5, 4), convolutional=True)),
        (siamese_predictor(6, 5), siamese_predictor(6, 5, convolutional=True)),
    ):
        for a, b in zip(conv.parameters(), linear.parameters(), strict=True):
            a.data.copy_(b.data.view_as(a))
        expected = linear(rows).view(2, 3, 4, -1).permute(0, 3, 1, 2)
        torch.testing.assert_close(conv(maps), expected, rtol=1e-4, atol=1e-5)


def test_siamese_projector_whitens_each_channel():
    torch.manual_seed(0)
    out = siamese_projector((6, 5, 4))(torch.randn(200, 6))
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, unbiased=False), torch.ones(4), atol=1e-3, rtol=0)
