"""Multi-scale deformable attention (arXiv:2010.04159): each query reads a few points of each level.

Locations are normalised, x before y, and not clipped; what lies outside a map counts zero. Three
implementations give the same numbers: `reference` (plain torch), `bags` (fast on the CPU) and
`triton` (CUDA). The device of the tensors decides; `use_implementation` or the environment variable
D2_UNSUPDET_DEFORMABLE_ATTENTION choose another. The kernel has been run in Triton's interpreter and
compiled for GPUs, but not yet run on one.
"""

import functools
import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from d2_unsupdet.availability import is_installed
from d2_unsupdet.detectors.deformable_attention_bags import bag_levels
from d2_unsupdet.detectors.deformable_attention_reference import sample_levels
from d2_unsupdet.detectors.transfer import to_device
from d2_unsupdet.errors import UserError

log = logging.getLogger(__name__)

VARIABLE = "D2_UNSUPDET_DEFORMABLE_ATTENTION"
IMPLEMENTATIONS = ("auto", "reference", "bags", "triton")
_chosen: list[str] = []  # by `use_implementation`; the innermost is the last


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples, (B, Nq, heads * width), in the type of `value`.

    Args:
        value: (B, S, heads, width), the levels of `shapes` one after the other.
        shapes: (height, width) of each level.
        locations: (B, Nq, heads, levels, points, 2).
        weights: (B, Nq, heads, levels, points).
    """
    tokens = sum(h * w for h, w in shapes)
    if tokens != value.shape[1] or len(shapes) != locations.shape[3]:
        raise UserError(
            f"Deformable attention got {value.shape[1]} tokens and locations on "
            f"{locations.shape[3]} levels for the shapes {list(shapes)}: these are {len(shapes)} "
            f"levels of together {tokens} tokens, pass the shapes of the maps that the tokens "
            f"come from."
        )
    name = implementation(value)
    if name == "triton":
        from d2_unsupdet.detectors.deformable_attention_triton import kernel_levels

        return kernel_levels(value, shapes, locations, weights)
    return (bag_levels if name == "bags" else sample_levels)(value, shapes, locations, weights)


def implementation(value: Tensor) -> str:
    """The one that `deformable_attention` takes for this tensor."""
    name = _chosen[-1] if _chosen else _valid(os.environ.get(VARIABLE, "auto"), VARIABLE)
    if name == "auto":
        name = _automatic(value.device.type, value.dtype)
    if not torch.compiler.is_compiling():
        _log_once(name, value.device.type)
    return name


@contextmanager
def use_implementation(name: str) -> Iterator[None]:
    """Within the block `deformable_attention` runs `name`, one of `IMPLEMENTATIONS`."""
    _chosen.append(_valid(name, "use_implementation"))
    try:
        yield
    finally:
        _chosen.pop()


def _valid(name: str, source: str) -> str:
    if name not in IMPLEMENTATIONS:
        raise UserError(
            f"{source} names the deformable attention '{name}', which does not exist: choose one "
            f"of {', '.join(IMPLEMENTATIONS)}."
        )
    if name == "triton" and not is_installed("triton"):
        raise UserError(f"{source} asks for Triton, which is not installed: pip install triton.")
    return name


def _automatic(device: str, dtype: torch.dtype) -> str:
    if device == "cpu":
        return "bags"
    if device == "cuda" and dtype != torch.float64 and is_installed("triton"):
        return "triton"
    return "reference"


@functools.cache
def _log_once(name: str, device: str) -> None:
    note = "; its kernel has not yet been run on a GPU by its authors" if name == "triton" else ""
    log.info("Deformable attention on %s: %s%s (%s switches).", device, name, note, VARIABLE)


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
        if dim % heads:
            raise UserError(
                f"Deformable attention cannot split dim={dim} into heads={heads} of one width: "
                f"choose heads that divide dim."
            )
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
        value = self.value_proj(value)
        if mask is not None:
            value = value.masked_fill(mask[..., None], 0)
        value = value.unflatten(-1, (self.heads, -1))
        locations, weights = self.points_of(query, reference, shapes)
        return self.output_proj(deformable_attention(value, shapes, locations, weights))

    def points_of(
        self, query: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Where each query looks, (B, Nq, heads, levels, points, 2), and how much it takes of it.

        Never in half precision: bf16 cannot tell neighbouring pixels of a large map apart.
        """
        if reference.shape[-2:] not in ((self.levels, 2), (self.levels, 4)):
            raise UserError(
                f"Deformable attention got references of shape {tuple(reference.shape)}: the last "
                f"two sizes have to be {self.levels} levels and 2 (points) or 4 (boxes)."
            )
        offsets, scores = self.sampling_offsets(query), self.attention_weights(query)
        exact = torch.promote_types(offsets.dtype, torch.float32)
        offsets = offsets.to(exact).unflatten(-1, (self.heads, self.levels, self.points, 2))
        weights = scores.to(exact).unflatten(-1, (self.heads, -1)).softmax(-1)
        weights = weights.unflatten(-1, (self.levels, self.points))
        reference = reference.to(exact)[:, :, None, :, None]  # (B, Nq, 1, levels, 1, 2|4)
        if reference.shape[-1] == 2:
            step = to_device([(1 / w, 1 / h) for h, w in shapes], offsets.device, exact)[:, None]
        else:
            step = reference[..., 2:] * (0.5 / self.points)
        return torch.addcmul(reference[..., :2], offsets, step), weights
