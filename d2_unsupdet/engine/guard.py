"""Stop all ranks before a step that is not finite touches the weights, and keep the evidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm

from d2_unsupdet.checkpoint.files import atomic_write
from d2_unsupdet.engine.config import to_plain
from d2_unsupdet.errors import UserError


class NotFinite(UserError):
    """A loss or gradient was NaN or infinite; the weights are those before the step."""


@dataclass
class FiniteGuard:
    """Check every step's losses and gradient norm with one transfer, agreed by all ranks.

    The capture file of a failed step holds what `python -m d2_unsupdet.engine.replay` needs to run
    that step again: config, weights, step, and the positions of the images.

    Args:
        output_dir: where `capture_step*.pth` goes.
        config: the run's config.
        seed: the run's seed.
    """

    output_dir: Path
    config: Any
    seed: int

    def check(
        self,
        losses: dict[str, torch.Tensor],
        grad_norm: torch.Tensor | None,
        *,
        step: int,
        batch: Sequence[dict],
        model: torch.nn.Module,
    ) -> None:
        """Raise `NotFinite` on every rank if any rank's values are not finite."""
        values = [value.detach().float().reshape(()) for value in losses.values()]
        names = list(losses)
        if grad_norm is not None:
            values.append(grad_norm.detach().float().reshape(()))
            names.append("gradient norm")
        finite = torch.stack(values).isfinite()
        agreed = finite.all().float()
        if comm.get_world_size() > 1:
            dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        if agreed.item() == 1.0:  # the step's one host sync
            return
        bad = [name for name, ok in zip(names, finite.tolist(), strict=True) if not ok]
        # DDP spreads a bad gradient to everyone; a rank is at fault when one of its losses is bad.
        own_losses = [name for name in bad if name in losses]
        message = ""
        if own_losses or comm.get_world_size() == 1:
            path = self._capture(step, batch, model, bad)
            files = ", ".join(str(sample.get("file_name", "?")) for sample in batch)
            named = ", ".join(own_losses or bad)
            message = (
                f"rank {comm.get_rank()}: {named} not finite at step {step}; "
                f"images: {files}; captured in {path}"
            )
        messages = [m for m in comm.all_gather(message) if m]
        text = "; ".join(messages) or f"the gradient norm is not finite at step {step} on any rank"
        raise NotFinite(
            f"{text}. The weights are untouched; replay with 'python -m d2_unsupdet.engine.replay "
            "CAPTURE', and see whether the learning rate fits the batch size."
        )

    def _capture(
        self, step: int, batch: Sequence[dict], model: torch.nn.Module, bad: list[str]
    ) -> Path:
        capture = {
            "config": to_plain(self.config),
            "model": model.state_dict(),
            "step": step,
            "seed": self.seed,
            "rank": comm.get_rank(),
            "not_finite": bad,
            "positions": [(s.get("epoch", 0), s.get("index", 0)) for s in batch],
            "files": [str(s.get("file_name", "")) for s in batch],
        }
        path = self.output_dir / f"capture_step{step:07d}_rank{comm.get_rank()}.pth"
        atomic_write(path, lambda file: torch.save(capture, file))
        return path
