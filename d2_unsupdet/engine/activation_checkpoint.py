"""Time for memory: stem and residual blocks keep only their input and run again in the backward.

Batch norm would count the second run in its running statistics; it is told not to.
"""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from detectron2.modeling.backbone.resnet import ResNetBlockBase
from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [
        m
        for m in block.modules()
        if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats
    ]
    # Momentum 0 keeps the statistics and, unlike switching them off, runs the same operator.
    before = [(norm.momentum, norm.get_buffer("num_batches_tracked").clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.get_buffer("num_batches_tracked").copy_(batches)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _statistics_kept(block)


def _run(block: nn.Module, forward: Any, x: torch.Tensor) -> torch.Tensor:
    if not (torch.is_grad_enabled() and block.training):
        return forward(x)
    return checkpoint(
        forward, x, use_reentrant=False, context_fn=functools.partial(_contexts, block)
    )


def checkpoint_blocks(model: nn.Module) -> int:
    """Checkpoint stem and residual blocks that train; returns how many. State-dict keys stay."""
    blocks = [
        m
        for m in model.modules()
        if isinstance(m, ResNetBlockBase) and any(p.requires_grad for p in m.parameters())
    ]
    for block in blocks:
        block.forward = functools.partial(_run, block, block.forward)  # type: ignore[method-assign]
    return len(blocks)
