"""Box arithmetic that torchvision does not have."""

import torch
from torch import Tensor
from torchvision.ops import box_convert


def to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Corners of (cx, cy, w, h) boxes of any leading shape."""
    return box_convert(boxes_cxcywh, "cxcywh", "xyxy")


def full_precision(x: Tensor) -> Tensor:
    """At least float32: coordinates in half precision are off by pixels."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """The logit of x in 0..1; eps bounds it to +- ln(1 / eps)."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()
