"""Shared by the siamese methods: both directions of a loss, parts that wait, checks of settings."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor, nn

from d2_unsupdet.errors import UserError

View = TypeVar("View")


def symmetric(loss: Callable[[View, View], Tensor], first: View, second: View) -> Tensor:
    """The mean of the loss in both directions."""
    return (loss(first, second) + loss(second, first)) / 2


def waiting(modules: Iterable[nn.Module]) -> Tensor:
    """The loss of parts that are not computed yet: zero, with a gradient of zero.

    Every parameter takes part in every step, or DistributedDataParallel would wait.
    """
    return torch.stack([p.sum() for module in modules for p in module.parameters()]).sum() * 0


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation without gradients, then the mode from before."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def check_counts(least: int = 1, **counts: int) -> None:
    """Refuse, by name, what is no whole number of at least `least`."""
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < least:
            raise UserError(f"{name} is {count!r}; it must be a whole number of at least {least}.")


def check_regions(start: float, temperature: float) -> None:
    """Refuse settings of RegionSim that both modes have."""
    if not 0 <= start <= 1:
        raise UserError(f"region_start is {start}; it is a share of the run, in [0, 1].")
    if not temperature > 0:
        raise UserError(
            f"region_temperature is {temperature}; it divides similarities and must be above 0."
        )
