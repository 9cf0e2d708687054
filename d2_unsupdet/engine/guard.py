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
from d2_unsupdet.engine.model_state import extra_state
from d2_unsupdet.errors import UserError

ADVICE = (
    "The weights are those before the step; run it again with 'python -m "
    "d2_unsupdet.engine.replay CAPTURE', and see whether the learning rate fits the batch size."
)


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
        values = {**losses, **({} if grad_norm is None else {"gradient norm": grad_norm})}
        finite = torch.stack([v.detach().float().reshape(()) for v in values.values()]).isfinite()
        agreed = finite.all().float()
        if comm.get_world_size() > 1:
            dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        if agreed.item() == 1.0:  # the step's one host sync
            return
        bad = [name for name, ok in zip(values, finite.tolist(), strict=True) if not ok]
        own = [name for name in bad if name in losses]
        # DDP spreads a bad gradient to all: at fault are the ranks with a bad loss, or else all.
        anyone = any(comm.all_gather(bool(own)))
        message = ""
        if own or not anyone:
            message = self.capture(f"{', '.join(own or bad)} not finite", step, batch, model)
        raise NotFinite(f"{'; '.join(m for m in comm.all_gather(message) if m)}. {ADVICE}")

    def fail(
        self, reason: str, *, step: int, batch: Sequence[dict], model: torch.nn.Module
    ) -> None:
        """Capture and raise on this rank alone; its end is the end of the others."""
        raise NotFinite(f"{self.capture(reason, step, batch, model)}. {ADVICE}")

    def capture(self, reason: str, step: int, batch: Sequence[dict], model: torch.nn.Module) -> str:
        """Write the capture file; returns a sentence that names it, the reason and the images."""
        rank = comm.get_rank()
        files = [str(sample.get("file_name", "?")) for sample in batch]
        content = {
            "config": to_plain(self.config),
            "model": model.state_dict(),
            "extra": extra_state(model),
            "step": step,
            "seed": self.seed,
            "rank": rank,
            "reason": reason,
            "positions": [
                tuple(s.get(key, 0) for key in ("epoch", "index", "copy")) for s in batch
            ],
            "files": files,
        }
        path = self.output_dir / f"capture_step{step:07d}_rank{rank}.pth"
        atomic_write(path, lambda file: torch.save(content, file))
        return (
            f"rank {rank}: {reason} at step {step}; images: {', '.join(files)}; captured in {path}"
        )
