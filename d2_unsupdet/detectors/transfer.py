"""Between host and device: one wait for many tensors, and small numbers without any wait."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All of them on the CPU as floats, after one wait for the device."""
    if not tensors:
        return []
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    flat = torch.cat([t.detach().to(dtype).flatten() for t in tensors]).cpu()
    parts = flat.split([t.numel() for t in tensors])
    return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]


def to_device(values: Sequence, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Host numbers as a tensor. `torch.tensor(values, device=...)` would wait for the device."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
