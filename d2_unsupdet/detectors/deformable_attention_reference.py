"""Multi-scale deformable attention, the plain formulation: `grid_sample` a level, weighted, summed.

Every other implementation is held against this one. No buffer holds the samples of all levels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_levels(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` with differentiable operators of torch only, on any device."""
    batch, _, heads, width = value.shape
    count = locations.shape[1]
    exact = torch.promote_types(value.dtype, torch.float32)  # positions are never in half precision
    locations, weights = locations.to(exact), weights.to(exact)
    result = value.new_zeros(batch * heads, width, count, dtype=exact)
    sections = value.split([h * w for h, w in shapes], dim=1)
    for level, ((h, w), section) in enumerate(zip(shapes, sections, strict=True)):
        # (B, h * w, M, d) to (B * M, d, h, w)
        maps = section.to(exact).permute(0, 2, 3, 1).reshape(batch * heads, width, h, w)
        grid = locations[:, :, :, level].transpose(1, 2).flatten(0, 1) * 2 - 1
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)
        samples = F.grid_sample(maps, grid, align_corners=False)  # (B * M, d, Nq, P)
        result = result + (samples * weight).sum(-1)
    result = result.view(batch, heads * width, count).transpose(1, 2)
    return result.to(value.dtype)
