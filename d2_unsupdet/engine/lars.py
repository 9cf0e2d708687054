"""LARS (You et al., arXiv:1708.03888): SGD scaled per tensor by |weight| / |gradient|.

Vectors (norm layers and biases) take the plain momentum step without weight decay, as in the
large-batch recipes of self-supervised learning.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Layer-wise adaptive SGD for large batches.

    ::

        optimizer = LARS(model.parameters(), lr=0.1 * 4096 / 256)

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        momentum: of the velocity.
        weight_decay: added to the gradient before the ratio; not for vectors.
        trust_coefficient: share of a tensor's own length that a step of lr 1 may have.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
    ) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"LARS got {name}={value}; it must not be negative.")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p, group)
        return loss

    def _step_one(self, p: Tensor, group: dict[str, Any]) -> None:
        direction = p.grad
        assert direction is not None
        if p.dim() > 1:
            direction = direction.add(p, alpha=group["weight_decay"])
            direction = direction * _trust(p, direction, group["trust_coefficient"])
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
        p.add_(velocity, alpha=-group["lr"])


def _trust(weight: Tensor, direction: Tensor, coefficient: float) -> Tensor:
    """coefficient * |weight| / |direction|, and 1 where either is zero; stays on the device."""
    size, length = weight.norm(), direction.norm()
    usable = (size > 0) & (length > 0)
    return torch.where(usable, coefficient * size / length, torch.ones_like(size))
