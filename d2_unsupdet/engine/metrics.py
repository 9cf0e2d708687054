"""Scalars that stay on the device until the log period: one transfer a period, not one a step."""

import torch
import torch.distributed as dist
from detectron2.utils import comm


class Metrics:
    """Running sums of device scalars and host numbers; `flush()` gives the means over all ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}
        self._host: dict[str, list[float]] = {}

    def state_dict(self) -> dict:
        """The sums of the open period, so that a resume continues it."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict) -> None:
        self._sums = dict(state.get("sums", {}))
        self._counts = dict(state.get("counts", {}))

    def add(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float().reshape(())
            old = self._sums.get(name)
            self._sums[name] = value if old is None else old.to(value.device) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def add_host(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._host.setdefault(name, []).append(value)

    def flush(self) -> dict[str, float]:
        """Means since the last flush. Every rank must call it: it reduces over them."""
        names = sorted(self._sums)
        result = {name: sum(values) / len(values) for name, values in self._host.items()}
        if names:
            # Metrics may come every other step: each has its own count.
            means = torch.stack([self._sums[name] / self._counts[name] for name in names])
            if comm.get_world_size() > 1:
                dist.all_reduce(means)
                means /= comm.get_world_size()
            result.update(zip(names, means.tolist(), strict=True))
        if "lr" in self._host:
            result["lr"] = self._host["lr"][-1]
        self._sums, self._counts, self._host = {}, {}, {}
        return result
