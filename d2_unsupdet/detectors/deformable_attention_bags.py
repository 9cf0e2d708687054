"""Multi-scale deformable attention for the CPU: a query's samples are one embedding bag.

A bilinear sample is a weighted sum of four rows of the value table, so what a head gives a query is
one bag: 4 * points rows of a level, weighted by bilinear share times attention. Torch has fast code
for bags, which never writes the samples to memory. The gradient of the table is the same operation
turned around: the samples sorted by the cell they fall in, a cell's bag holds queries' gradients.
Each map has a border of zeros, so that all four rows of every sample exist.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.compiler.disable  # one break of the graph; tracing the backward pass would make many
def bag_levels(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` for the CPU; the gradient has no gradient of its own."""
    # PyTorch's apply has no types
    return _Bags.apply(value, locations, weights, tuple(shapes))  # type: ignore[no-untyped-call]


class _Bags(torch.autograd.Function):
    """Keeps its inputs only; positions and shares of the rows are computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        locations: Tensor,
        weights: Tensor,
        shapes: tuple[tuple[int, int], ...],
    ) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = shapes
        batch, _, heads, width = value.shape
        result: Tensor | None = None
        for level, table in enumerate(_tables(value, shapes)):
            cells = _locate(locations[:, :, :, level], shapes[level], table.dtype)
            share = cells.shares() * _by_head(weights[:, :, :, level], table.dtype)[..., None]
            part = _bag(table, cells.rows(), share)
            result = part if result is None else result.add_(part)
        assert result is not None
        return (
            _by_query(result.view(batch, heads, locations.shape[1], width))
            .flatten(2)
            .to(value.dtype)
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        batch, _, heads, width = value.shape
        grad_value = torch.empty_like(value) if ctx.needs_input_grad[0] else None
        grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
        start = 0
        for level, table in enumerate(_tables(value, ctx.shapes)):
            h, w = ctx.shapes[level]
            rows_grad = _by_head(grad.unflatten(2, (heads, width)), table.dtype).flatten(0, 2)
            cells = _locate(locations[:, :, :, level], (h, w), table.dtype)
            weight = _by_head(weights[:, :, :, level], table.dtype)
            if grad_value is not None:
                table_grad = _table_gradient(cells, cells.shares() * weight[..., None], rows_grad)
                table_grad = table_grad.view(batch, heads, h + 2, w + 2, -1)[:, :, 1:-1, 1:-1]
                grad_value[:, start : start + h * w] = _by_query(table_grad.flatten(2, 3))
            corners = _corner_gradient(table, cells, rows_grad)
            grad_weights[:, :, :, level] = _by_query(cells.blend(corners))
            slopes = cells.slopes(corners) * weight[..., None]
            grad_locations[:, :, :, level] = _by_query(slopes)
            start += h * w
        return grad_value, grad_locations, grad_weights, None


@dataclass
class _Cells:
    """Where the samples of a level lie: the upper left row of each, and how far beyond it.

    Shapes are (B, M, Nq, P); `right` and `down` are in 0..1.
    """

    row: Tensor
    right: Tensor
    down: Tensor
    inside: tuple[Tensor, Tensor]
    size: tuple[int, int]

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Rows from the upper left to each of the four."""
        stride = self.size[1] + 2
        return 0, 1, stride, stride + 1

    def rows(self) -> Tensor:
        """(B, M, Nq, P, 4)."""
        return self.row[..., None] + torch.tensor(
            self.corners, dtype=self.row.dtype, device=self.row.device
        )

    def shares(self) -> Tensor:
        """Bilinear shares of the four rows, (B, M, Nq, P, 4)."""
        shares = self.right.new_empty(*self.right.shape, 4)
        left, up = 1 - self.right, 1 - self.down
        torch.mul(up, left, out=shares[..., 0])
        torch.mul(up, self.right, out=shares[..., 1])
        torch.mul(self.down, left, out=shares[..., 2])
        torch.mul(self.down, self.right, out=shares[..., 3])
        return shares

    def blend(self, corners: Tensor) -> Tensor:
        """Interpolated between four numbers a sample."""
        upper = torch.lerp(corners[..., 0], corners[..., 1], self.right)
        return torch.lerp(
            upper, torch.lerp(corners[..., 2], corners[..., 3], self.right), self.down
        )

    def slopes(self, corners: Tensor) -> Tensor:
        """Derivative of `blend` by the normalised location, (B, M, Nq, P, 2)."""
        a, b, c, d = corners.unbind(-1)
        across = torch.lerp(b - a, d - c, self.down) * self.inside[0]
        along = torch.lerp(c - a, d - b, self.right) * self.inside[1]
        return torch.stack([across * self.size[1], along * self.size[0]], dim=-1)


def _tables(value: Tensor, shapes: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
    """Of each level (B * M * (h + 2) * (w + 2), d): heads apart, maps in a border of zeros."""
    batch, _, heads, width = value.shape
    exact = torch.promote_types(value.dtype, torch.float32)
    for (h, w), section in zip(shapes, value.split([h * w for h, w in shapes], dim=1), strict=True):
        table = value.new_zeros(batch, heads, h + 2, w + 2, width, dtype=exact)
        table[:, :, 1:-1, 1:-1] = section.transpose(1, 2).unflatten(2, (h, w))
        yield table.flatten(0, 3)


def _locate(locations: Tensor, size: tuple[int, int], exact: torch.dtype) -> _Cells:
    """Cells of the locations (B, Nq, M, P, 2) in the table of a level."""
    h, w = size
    batch, _, heads = locations.shape[:3]
    x, right, inside_x = _axis(_by_head(locations[..., 0], exact), w)
    y, down, inside_y = _axis(_by_head(locations[..., 1], exact), h)
    maps = torch.arange(batch * heads, dtype=torch.int32, device=locations.device)
    row = x.add_(y, alpha=w + 2).add_(maps.view(batch, heads, 1, 1) * ((h + 2) * (w + 2)))
    return _Cells(row, right, down, (inside_x, inside_y), size)


def _axis(normalised: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cell in 0..length of the bordered map, the way beyond it, and whether moving changes a thing.

    What lies further out than the border is put on it and reads zeros, as it should. Not a number
    falls into some cell and stays not a number in the way beyond, hence in the result.
    """
    place = normalised.mul_(length).add_(0.5)  # (normalised * length - 0.5) + 1 for the border
    inside = (place > 0) & (place < length + 1)
    place = place.clamp_(0, length + 1)
    cell = place.to(torch.int32).clamp_(0, length)
    return cell, place.sub_(cell), inside


def _bag(table: Tensor, rows: Tensor, share: Tensor) -> Tensor:
    """(B * M * Nq, d): for each query the weighted sum of its rows, from (B, M, Nq, P, 4)."""
    each = rows.shape[-2] * rows.shape[-1]
    starts = torch.arange(0, rows.numel() + 1, each, dtype=rows.dtype, device=rows.device)
    return _sum_bags(table, rows.flatten(), starts, share.flatten())


def _sum_bags(table: Tensor, rows: Tensor, starts: Tensor, share: Tensor) -> Tensor:
    return F.embedding_bag(
        rows, table, starts, mode="sum", per_sample_weights=share, include_last_offset=True
    )


def _corner_gradient(table: Tensor, cells: _Cells, rows_grad: Tensor) -> Tensor:
    """(B, M, Nq, P, 4): product of each of the four rows with the gradient of its query."""
    rows = cells.rows()
    share = torch.zeros_like(rows, dtype=table.dtype).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_bag(table, rows, share), share, rows_grad)
    return gradient


def _table_gradient(cells: _Cells, share: Tensor, rows_grad: Tensor) -> Tensor:
    """Gradient of a level's table.

    All four rows of the samples of one cell are neighbours of it in the same way. So many samples
    are sorted by their cell, once, and each corner is a sum over the cells' bags, moved by the
    corner's step. Of few samples all rows are sorted, since then writing four tables costs more.
    """
    batch, heads, queries, _ = cells.row.shape
    count = batch * heads * (cells.size[0] + 2) * (cells.size[1] + 2)
    few = cells.row.numel() < count
    steps = (0,) if few else cells.corners
    places = (cells.rows() if few else cells.row).flatten()
    _, order = torch.sort(places, stable=True)
    starts = F.pad(torch.bincount(places, minlength=count).cumsum(0), (1, 0)).to(torch.int32)
    each = places.numel() // max(1, batch * heads * queries)
    bags = torch.div(order, max(1, each), rounding_mode="floor").to(torch.int32)
    share = share.view(-1, len(steps)).index_select(0, order).t().contiguous()
    gradient = _sum_bags(rows_grad, bags, starts, share[0])
    for step, corner_share in zip(steps[1:], share[1:], strict=True):
        moved = _sum_bags(rows_grad, bags, starts, corner_share)
        gradient[step:].add_(moved[: count - step])
    return gradient


def _by_head(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, Nq, M, ...) to a new (B, M, Nq, ...), so that a head's rows stay in the cache."""
    x = x.transpose(1, 2)
    return torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x)


def _by_query(x: Tensor) -> Tensor:
    """(B, M, Nq, ...) to (B, Nq, M, ...)."""
    return x.transpose(1, 2)
