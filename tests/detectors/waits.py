"""Finds, on a CPU, what would make the host wait for a GPU: numbers that cross between the two."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

READING = {
    getattr(Tensor, name)
    for name in (
        "item", "tolist", "cpu", "numpy", "nonzero", "unique", "masked_select", "new_tensor",
        "__bool__", "__int__", "__float__", "__index__", "__contains__",
    )
}  # fmt: skip
READING |= {torch.nonzero, torch.unique, torch.masked_select, torch.equal, torch.allclose}
MAKING = {torch.tensor, torch.as_tensor}  # with a device they copy and wait


class Waits(TorchFunctionMode):
    """Collects the names of waiting calls in its block.

    >>> with Waits() as waits:
    ...     model.decode(encoded, queries)
    >>> assert waits.found == []
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.counting = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.counting and self._waits(func, args, kwargs):
            self.found.append(getattr(func, "__name__", str(func)))
        return func(*args, **kwargs)

    @contextmanager
    def on_the_host(self) -> Iterator[None]:
        """What runs here has only tensors of the host."""
        self.counting = False
        try:
            yield
        finally:
            self.counting = True

    def _waits(self, func: Any, args: Any, kwargs: Any) -> bool:
        if func in READING:
            return True
        if func in MAKING:
            return kwargs.get("device") is not None
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return any(
                isinstance(one, list) or (isinstance(one, Tensor) and one.dtype == torch.bool)
                for one in index
            )
        return func is torch.where and len(args) == 1


def watch_transfers(monkeypatch: Any, waits: Waits, hosts: Iterable[tuple[Any, str]]) -> list[int]:
    """Counts the one allowed transfer of a step; what runs behind it is on the host.

    Args:
        hosts: (object, name) of functions that only see tensors of the host.
    """
    from d2_unsupdet.detectors import HungarianAssigner, OverlapAssigner, assigning, transfer

    transfers: list[int] = []

    def sent(tensors: list[Tensor]) -> list[Tensor]:
        transfers.append(len(tensors))
        with waits.on_the_host():
            return transfer.to_host(tensors)

    def hosted(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            with waits.on_the_host():
                return function(*args, **kwargs)

        return run

    monkeypatch.setattr(assigning, "to_host", sent)
    for holder, name in ((HungarianAssigner, "answer"), (OverlapAssigner, "answer"), *hosts):
        monkeypatch.setattr(holder, name, hosted(getattr(holder, name)))
    return transfers
