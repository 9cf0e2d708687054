"""Metrics of a model, kept on the device until somebody asks: no host sync in the forward.

Detectron2's event storage turns every scalar into a Python float at once, which waits for the
device; here a metric is a running sum, and whoever writes the log line drains the means.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_sums: dict[str, tuple[Tensor, int]] = {}
_floors: dict[str, float] = {}


def log_metric(name: str, value: Tensor, *, warn_below: float | None = None) -> None:
    """Add one observation (the mean of `value`); it stays on its device and carries no gradient.

    Args:
        name: slash-separated.
        value: any shape.
        warn_below: whoever writes the log warns when the period's mean is under this.
    """
    if warn_below is not None:
        _floors[name] = warn_below
    value = value.detach().float().mean()
    total, count = _sums.get(name, (torch.zeros_like(value), 0))
    _sums[name] = (total + value, count + 1)


def drain_metrics() -> dict[str, Tensor]:
    """Each metric's mean since the last drain, 0-d and on its device; then forget them."""
    means = {name: total / count for name, (total, count) in _sums.items()}
    _sums.clear()
    return means


@contextmanager
def metrics_apart() -> Iterator[None]:
    """What is logged inside the block is forgotten: it is no observation of the run."""
    known = [(store, dict(store)) for store in (_sums, _floors)]
    try:
        yield
    finally:
        for store, before in known:
            store.clear()
            store.update(before)  # type: ignore[arg-type]  # each with its own


def below_floor(means: dict[str, float]) -> dict[str, float]:
    """The floors of the metrics that lie under theirs."""
    return {name: floor for name, floor in _floors.items() if means.get(name, floor) < floor}
