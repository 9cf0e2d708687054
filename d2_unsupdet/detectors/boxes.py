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


def paired_giou(boxes: Tensor, others: Tensor, eps: float = 1e-7) -> Tensor:
    """Generalised IoU (arXiv:1902.09630) of each box (n, 4) xyxy with its partner.

    Torchvision's loss selects by masks, for which the host waits for the device five times.
    """
    corner, end = torch.max(boxes[:, :2], others[:, :2]), torch.min(boxes[:, 2:], others[:, 2:])
    shared = (end - corner).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, others)]
    union = areas[0] + areas[1] - shared
    low, high = torch.min(boxes[:, :2], others[:, :2]), torch.max(boxes[:, 2:], others[:, 2:])
    hull = (high - low).prod(1)
    return shared / (union + eps) - (hull - union) / (hull + eps)
