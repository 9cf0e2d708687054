"""Multi-scale deformable attention as Triton kernels, forward and backward, for CUDA.

A program serves a block of queries of one head of one image. It reads rows of the value in their
type, computes in fp32 and, in the backward pass, adds to an fp32 gradient of the value atomically,
so that gradients differ in the last bits from run to run. Checked in Triton's interpreter
(TRITON_INTERPRET=1) and compiled for GPUs without one: it has not yet been run on a GPU.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from d2_unsupdet.detectors.transfer import to_device


def kernel_levels(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` in Triton; the gradient has no gradient of its own."""
    exact = locations.float(), weights.float()
    # PyTorch's apply has no types
    return _Kernel.apply(value, *exact, tuple(shapes))  # type: ignore[no-untyped-call]


class _Kernel(torch.autograd.Function):
    """Keeps its inputs only."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        locations: Tensor,
        weights: Tensor,
        shapes: tuple[tuple[int, int], ...],
    ) -> Tensor:
        value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
        ctx.save_for_backward(value, locations, weights)
        ctx.shapes = shapes
        batch, _, heads, width = value.shape
        result = value.new_empty(batch, locations.shape[1], heads * width)
        grid, sizes = _launch(value, locations, rows=1024)
        if result.numel():
            table = _level_table(shapes, value.device)
            with _on(value):
                _forward[grid](value, table, locations, weights, result, **sizes)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        grad_value = torch.zeros_like(value, dtype=torch.float32)
        grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
        grid, sizes = _launch(value, locations, rows=512)
        if grad.numel():
            table = _level_table(ctx.shapes, value.device)
            inputs = value, table, locations, weights, grad.contiguous()
            with _on(value):
                _backward[grid](*inputs, grad_value, grad_locations, grad_weights, **sizes)
        return grad_value.to(value.dtype), grad_locations, grad_weights, None


def _launch(value: Tensor, locations: Tensor, *, rows: int) -> tuple[tuple[int, int], dict]:
    """Programs (query blocks, heads) and the kernels' sizes, for blocks of `rows` numbers."""
    batch, tokens, heads, width = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    block_width = triton.next_power_of_2(width)
    block = max(1, min(rows // block_width, triton.next_power_of_2(max(1, queries))))
    sizes = dict(
        tokens=tokens, queries=queries, HEADS=heads, WIDTH=width, LEVELS=levels, POINTS=points,
        BLOCK=block, BLOCK_WIDTH=block_width,
    )  # fmt: skip
    return (triton.cdiv(queries, block), batch * heads), sizes


def _on(value: Tensor) -> Any:
    """Triton launches on the current device, which need not be the one of the tensors."""
    return torch.cuda.device(value.device if value.is_cuda else -1)


@functools.lru_cache(maxsize=512)
def _level_table(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """(levels, 3): height, width and first token of each level; copied to the device once."""
    rows, start = [], 0
    for h, w in shapes:
        rows.append((h, w, start))
        start += h * w
    return to_device(rows, device, torch.int32)


# Triton reads the kernels' annotations as compile-time constants: they take no types.


@triton.jit
def _corner(rows, y, x, h, w, stride, inside):  # type: ignore[no-untyped-def]
    """Pointers to the rows of the pixels (y, x) of a map, and which of the pixels there are.

    Compared as floating-point numbers: what is not a number is nowhere.
    """
    there = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    place = tl.where(there, y * w + x, 0.0).to(tl.int32)
    return rows + place[:, None] * stride, there[:, None] & inside


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    value, table, locations, weights, result, tokens, queries,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1) % HEADS
    image = (tl.program_id(1) // HEADS).to(tl.int64)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, BLOCK_WIDTH)
    live = query < queries
    inside = live[:, None] & (channel < WIDTH)[None, :]
    site = (image * queries + query) * HEADS + head
    stride = HEADS * WIDTH
    total = tl.zeros((BLOCK, BLOCK_WIDTH), dtype=tl.float32)
    for level in range(LEVELS):
        h = tl.load(table + level * 3).to(tl.float32)
        w = tl.load(table + level * 3 + 1).to(tl.float32)
        first = image * tokens + tl.load(table + level * 3 + 2)
        rows = value + first * stride + head * WIDTH + channel[None, :]
        for point in range(POINTS):
            sample = (site * LEVELS + level) * POINTS + point
            u = tl.load(locations + sample * 2, mask=live, other=0.0) * w - 0.5
            v = tl.load(locations + sample * 2 + 1, mask=live, other=0.0) * h - 0.5
            weight = tl.load(weights + sample, mask=live, other=0.0)
            x, y = tl.floor(u), tl.floor(v)
            right, down = u - x, v - y
            at, there = _corner(rows, y, x, h, w, stride, inside)
            a = tl.load(at, mask=there, other=0.0).to(tl.float32)
            at, there = _corner(rows, y, x + 1, h, w, stride, inside)
            b = tl.load(at, mask=there, other=0.0).to(tl.float32)
            at, there = _corner(rows, y + 1, x, h, w, stride, inside)
            c = tl.load(at, mask=there, other=0.0).to(tl.float32)
            at, there = _corner(rows, y + 1, x + 1, h, w, stride, inside)
            d = tl.load(at, mask=there, other=0.0).to(tl.float32)
            upper, lower = weight * (1 - down), weight * down
            total += (upper * (1 - right))[:, None] * a + (upper * right)[:, None] * b
            total += (lower * (1 - right))[:, None] * c + (lower * right)[:, None] * d
    to = result + site[:, None] * WIDTH + channel[None, :]
    tl.store(to, total.to(result.dtype.element_ty), mask=inside)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    value, table, locations, weights, grad, grad_value, grad_locations, grad_weights,
    tokens, queries,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1) % HEADS
    image = (tl.program_id(1) // HEADS).to(tl.int64)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, BLOCK_WIDTH)
    live = query < queries
    inside = live[:, None] & (channel < WIDTH)[None, :]
    site = (image * queries + query) * HEADS + head
    stride = HEADS * WIDTH
    own = grad + site[:, None] * WIDTH + channel[None, :]
    flow = tl.load(own, mask=inside, other=0.0).to(tl.float32)
    for level in range(LEVELS):
        h = tl.load(table + level * 3).to(tl.float32)
        w = tl.load(table + level * 3 + 1).to(tl.float32)
        first = image * tokens + tl.load(table + level * 3 + 2)
        base = first * stride + head * WIDTH + channel[None, :]
        for point in range(POINTS):
            sample = (site * LEVELS + level) * POINTS + point
            u = tl.load(locations + sample * 2, mask=live, other=0.0) * w - 0.5
            v = tl.load(locations + sample * 2 + 1, mask=live, other=0.0) * h - 0.5
            weight = tl.load(weights + sample, mask=live, other=0.0)
            x, y = tl.floor(u), tl.floor(v)
            right, down = u - x, v - y
            upper, lower = weight * (1 - down), weight * down
            # products of the four rows with the gradient; each row's own gradient on the way
            at, there = _corner(base, y, x, h, w, stride, inside)
            a = tl.sum(tl.load(value + at, mask=there, other=0.0).to(tl.float32) * flow, axis=1)
            tl.atomic_add(grad_value + at, (upper * (1 - right))[:, None] * flow, mask=there)
            at, there = _corner(base, y, x + 1, h, w, stride, inside)
            b = tl.sum(tl.load(value + at, mask=there, other=0.0).to(tl.float32) * flow, axis=1)
            tl.atomic_add(grad_value + at, (upper * right)[:, None] * flow, mask=there)
            at, there = _corner(base, y + 1, x, h, w, stride, inside)
            c = tl.sum(tl.load(value + at, mask=there, other=0.0).to(tl.float32) * flow, axis=1)
            tl.atomic_add(grad_value + at, (lower * (1 - right))[:, None] * flow, mask=there)
            at, there = _corner(base, y + 1, x + 1, h, w, stride, inside)
            d = tl.sum(tl.load(value + at, mask=there, other=0.0).to(tl.float32) * flow, axis=1)
            tl.atomic_add(grad_value + at, (lower * right)[:, None] * flow, mask=there)
            over = a + (b - a) * right
            under = c + (d - c) * right
            tl.store(grad_weights + sample, over + (under - over) * down, mask=live)
            across = (b - a) * (1 - down) + (d - c) * down
            tl.store(grad_locations + sample * 2, across * weight * w, mask=live)
            tl.store(grad_locations + sample * 2 + 1, (under - over) * weight * h, mask=live)
