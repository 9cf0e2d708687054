"""Momentum (EMA) copies of a network: parameters only.

BN running statistics are not averaged; the copy's own forward, in train mode, produces them.
"""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def momentum_copy(module: nn.Module) -> nn.Module:
    """An independent copy that no optimizer and no gradient touches."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def momentum_update(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * source, for every parameter.

    The step is taken as a lerp, so that equal weights stay equal bit for bit.
    """
    step = get_ema_multi_avg_fn(momentum)
    step(list(target.parameters()), list(source.parameters()), 0)
