"""Time for memory: blocks and layers keep only their input and run again in the backward.

Stem and residual blocks of a ResNet, and the layers of a transformer.

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

from d2_unsupdet.detectors.decoder import DecoderLayer
from d2_unsupdet.detectors.encoder import EncoderLayer

BLOCKS = (ResNetBlockBase, EncoderLayer, DecoderLayer)


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


def _run(block: nn.Module, forward: Any, *inputs: Any) -> torch.Tensor:
    if not (torch.is_grad_enabled() and block.training):
        return forward(*inputs)
    return checkpoint(
        forward, *inputs, use_reentrant=False, context_fn=functools.partial(_contexts, block)
    )


def checkpoint_blocks(model: nn.Module) -> int:
    """Checkpoint the blocks and layers that train; returns how many. State-dict keys stay."""
    blocks = [
        m
        for m in model.modules()
        if isinstance(m, BLOCKS) and any(p.requires_grad for p in m.parameters())
    ]
    for block in blocks:
        block.forward = functools.partial(_run, block, block.forward)  # type: ignore[method-assign]
    return len(blocks)
