"""State of a model that its `state_dict` does not hold, and batch-norm statistics over ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm
from torch import nn

# Detectron2's RetinaNet and FCOS divide by a moving count of positives, kept as a plain number.
ATTRIBUTES = ("loss_normalizer",)


def extra_state(model: nn.Module) -> dict[str, float]:
    """`{"path.attribute": value}` of the numbers that training moves outside of buffers."""
    return {
        f"{path}.{name}": float(getattr(module, name))
        for path, module in model.named_modules()
        if isinstance(module, DenseDetector)
        for name in ATTRIBUTES
        if isinstance(getattr(module, name, None), int | float)
    }


def load_extra_state(model: nn.Module, state: dict[str, Any]) -> None:
    for key, value in state.items():
        path, _, name = key.rpartition(".")
        setattr(model.get_submodule(path), name, value)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Training or evaluation of every part as before, whatever happens in the block."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def batches_uncounted(model: nn.Module) -> Iterator[None]:
    """Batch norm's counters as they were, after forwards that are not training."""
    counters = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    before = [counter.clone() for counter in counters]
    try:
        yield
    finally:
        for counter, value in zip(counters, before, strict=True):
            counter.copy_(value)


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Give all ranks rank 0's running statistics: the ones that are saved, evaluated and exported.

    Each rank's plain batch norm sees its own images; scores over all ranks are scores of one model
    only after this. One message for all layers.
    """
    if comm.get_world_size() == 1:
        return
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase))
    buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
    if not buffers:
        return
    flat = torch.cat([b.reshape(-1) for b in buffers])
    dist.broadcast(flat, src=0)
    for buffer, values in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(values.view_as(buffer))
