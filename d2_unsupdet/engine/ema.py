"""Exponential moving average of a model; its counter is saved, so a resume keeps the warm-up."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ModelEMA:
    """Averages parameters and floating buffers; other buffers are copied.

    >>> ema = ModelEMA(model, decay=0.9998)
    >>> ema.update(model)                    # after each optimizer step
    >>> with ema.applied_to(model): ...      # evaluate the average

    Args:
        model: the model to follow; the average starts as a copy of it.
        decay: of the average, 0 to 1. Early on (1 + n) / (10 + n) is used where it is smaller.
    """

    def __init__(self, model: nn.Module, *, decay: float = 0.9998) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = model.state_dict()
        floating = [name for name, value in self.average.items() if value.is_floating_point()]
        average = get_ema_multi_avg_fn(decay)
        average([self.average[n] for n in floating], [current[n].detach() for n in floating], None)
        for name, value in self.average.items():
            if not value.is_floating_point():
                value.copy_(current[name])

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The average's values inside the block, the model's own after it."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.average)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def restart(self, model: nn.Module) -> None:
        """Start anew from the model's values."""
        self.updates = 0
        for name, value in model.state_dict().items():
            self.average[name].copy_(value)

    def adopt_statistics(self, model: nn.Module) -> None:
        """Take the model's batch-norm statistics, recomputed for the average's weights."""
        for name, value in model.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                self.average[name].copy_(value)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict) -> None:
        missing = self.average.keys() ^ state["average"].keys()
        if missing:
            raise ValueError(f"the saved average differs in {sorted(missing)[:3]}")
        self.updates = state["updates"]
        for name, value in state["average"].items():
            self.average[name].copy_(value)
