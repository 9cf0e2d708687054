"""Multi-scale deformable attention (arXiv:2010.04159): each query reads a few points of each level.

Locations are normalised, x before y, and not clipped; what lies outside a map counts zero.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples, (B, Nq, heads * width).

    Args:
        value: (B, S, heads, width), the levels of `shapes` one after the other.
        shapes: (height, width) of each level.
        locations: (B, Nq, heads, levels, points, 2).
        weights: (B, Nq, heads, levels, points).
    """
    batch, _, heads, width = value.shape
    count = locations.shape[1]
    result = value.new_zeros(batch * heads, width, count)
    sections = value.split([h * w for h, w in shapes], dim=1)
    for level, ((h, w), section) in enumerate(zip(shapes, sections, strict=True)):
        grid_map = section.permute(0, 2, 3, 1).reshape(batch * heads, width, h, w)
        grid = locations[:, :, :, level].transpose(1, 2).flatten(0, 1) * 2 - 1
        sampled = F.grid_sample(grid_map, grid, align_corners=False)  # (B * heads, width, Nq, P)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)
        result = result + (sampled * weight).sum(-1)
    return result.view(batch, heads * width, count).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Deformable attention with its four projections.

    Args:
        dim: channels of queries and values.
        heads: attention heads.
        levels: feature levels.
        points: points a head reads on each level.
    """

    def __init__(self, *, dim: int = 256, heads: int = 8, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Points start on rays, one a head, the p-th at distance p in the maximum norm."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(-1, 1)
        bias = (ray[:, None, None] * steps).expand(-1, self.levels, -1, -1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.flatten())
        for zero in (self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(zero)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        value: Tensor,
        shapes: Sequence[tuple[int, int]],
        mask: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            query: (B, Nq, C), position included.
            reference: (B, Nq, levels, 2) points or (B, Nq, levels, 4) boxes, normalised.
            value: (B, S, C).
            shapes: (height, width) of each level.
            mask: (B, S), True on padding.
        """
        batch, count, _ = query.shape
        value = self.value_proj(value)
        if mask is not None:
            value = value.masked_fill(mask[..., None], 0)
        value = value.view(batch, value.shape[1], self.heads, -1)
        offsets = self.sampling_offsets(query)
        offsets = offsets.view(batch, count, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).view(batch, count, self.heads, -1).softmax(-1)
        weights = weights.view(batch, count, self.heads, self.levels, self.points)
        anchor = reference[:, :, None, :, None, :2]
        if reference.shape[-1] == 2:
            size = offsets.new_tensor([(w, h) for h, w in shapes])[None, None, None, :, None]
            locations = anchor + offsets / size
        else:
            extent = reference[:, :, None, :, None, 2:]
            locations = anchor + offsets * extent * (0.5 / self.points)
        return self.output_proj(deformable_attention(value, shapes, locations, weights))
