"""MoCo v2's head: known value, unit length, fp32 under autocast."""

import torch

from d2_unsupdet.pretext.projectors import ImageProjector, unit


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
