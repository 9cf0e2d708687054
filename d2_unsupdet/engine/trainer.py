"""The training loop: Detectron2's `TrainerBase` and hooks around a step of our own.

An iteration is an optimizer step. Everything random is seeded from (seed, step, micro-batch, rank),
so evaluation, export or another worker count cannot disturb a run, and a resumed one is the same.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_unsupdet.data.loader import TrainLoader
from d2_unsupdet.engine.ema import ModelEMA
from d2_unsupdet.engine.freeze import NOTHING, Frozen
from d2_unsupdet.engine.guard import FiniteGuard, NotFinite
from d2_unsupdet.engine.metrics import Metrics
from d2_unsupdet.engine.model_state import extra_state, load_extra_state
from d2_unsupdet.engine.schedule import Multiplier
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import drain_metrics
from d2_unsupdet.seeding import seed_everything

MOST_SKIPPED = 100  # fp16 steps in a row; from a scale of 65536 every other cause has shown by then
AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

logger = logging.getLogger(__name__)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or the model."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class Trainer(TrainerBase):
    """Runs optimizer steps; everything else is a hook.

    >>> trainer = Trainer(
    ...     model=model, optimizer=optimizer, loader=loader, multiplier=cosine, length=90000)
    >>> trainer.register_hooks([CheckpointHook(...), EvaluationHook(...)])
    >>> trainer.train(start_iter=0, max_iter=90000)

    Args:
        model: gives a dict of weighted losses for a list of samples; DDP-wrapped or not.
        optimizer: each group may set `fixed_lr=True` to stay at its base rate.
        loader: batches of the plan.
        multiplier: progress in [0, 1] to a factor on every group's base rate.
        length: steps of the whole run, which progress refers to.
        seed: of everything random in a step.
        amp: None, "bf16" or "fp16".
        accumulate: micro-batches a step is cut into.
        clip_norm: full-model gradient norm to clip to; 0 never clips.
        ema: moving average of the model, updated after each step.
        guard: raises before a step that is not finite; None never looks.
        frozen: parts that stay as in evaluation.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: TrainLoader,
        multiplier: Multiplier,
        length: int,
        seed: int = 0,
        amp: str | None = None,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        ema: ModelEMA | None = None,
        guard: FiniteGuard | None = None,
        frozen: Frozen = NOTHING,
    ) -> None:
        super().__init__()
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.multiplier, self.length, self.seed = multiplier, length, seed
        self.accumulate, self.clip_norm = accumulate, clip_norm
        self.ema, self.guard, self.frozen = ema, guard, frozen
        self.metrics = Metrics()
        self.world = comm.get_world_size()
        self.bad_files: dict[str, int] = {}
        self.draws = {"all": 0, "boxless": 0}  # of this process; counts, which stay small for ever
        self.boxless = ""  # one of them, to be named
        self.notes: dict[str, Any] = {}  # plain values of hooks, part of every checkpoint
        self.device = next(model.parameters()).device
        self.amp_dtype = AMP_DTYPES[amp] if amp else None
        # bf16 has fp32's range and needs no loss scale.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "fp16")
        self._base_lrs = [group["lr"] for group in optimizer.param_groups]
        self._batches: Iterator[list[dict]] | None = None
        # The scaler does not say whether it stepped, except through the optimizer.
        optimizer.register_step_post_hook(self._note_step)
        self._stepped, self._skipped = False, 0
        bare = unwrap(model)
        # Deferred updates of teachers and queues happen after the optimizer step; see pretext/.
        self._commit: Callable[[], None] | None = getattr(bare, "commit", None)
        if self._commit is not None:
            bare.auto_commit = False  # type: ignore[assignment]
        share = loader.plan.batch // self.world
        if share % accumulate:
            raise UserError(
                f"train.accumulate={accumulate} does not divide the {share} images that each "
                "process sees in a step; change it or dataloader.train.total_batch_size."
            )

    def train(self, start_iter: int, max_iter: int) -> None:
        """Train from `start_iter`; the first step opens the loader, behind the hooks' start."""
        try:
            super().train(start_iter, max_iter)
        finally:
            self.close_loader()

    def close_loader(self) -> None:
        """End the loading workers; the next step opens the loader where the run is.

        A hook that changes what samples are calls it, since workers load ahead.
        """
        self._batches = None

    def learning_rate(self) -> float:
        """Set every group's rate for this step; returns the first group's."""
        factor = self.multiplier(self.iter / self.length)
        for group, base in zip(self.optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = base if group.get("fixed_lr") else base * factor
        return self.optimizer.param_groups[0]["lr"]

    def run_step(self) -> None:
        start = time.perf_counter()
        if self._batches is None:
            self._batches = self.loader.from_step(self.iter)
        batch = next(self._batches)
        waited = time.perf_counter() - start
        self._note_bad_files(batch)
        rate = self.learning_rate()

        self.model.train()
        self.frozen.hold()
        self._tell_progress()
        try:
            losses = self._forward_backward(batch)
            norm = self._clip()
            self._check(losses, norm, batch)
        except NotFinite:
            self._discard()
            raise
        self._step(batch)

        total = torch.stack([value.detach() for value in losses.values()]).sum()
        device_metrics = {"total_loss": total, **losses, **drain_metrics()}
        if norm is not None:
            device_metrics["grad_norm"] = norm
        self.metrics.add(device_metrics)
        elapsed = time.perf_counter() - start
        self.metrics.add_host({"time": elapsed, "data_time": waited, "lr": rate})

    def _tell_progress(self) -> None:
        """A method whose losses depend on the schedule has a `progress` in [0, 1]."""
        bare = unwrap(self.model)
        if hasattr(bare, "progress"):
            bare.progress = self.iter / self.length  # type: ignore[assignment]

    def _check(
        self, losses: dict[str, torch.Tensor], norm: torch.Tensor | None, batch: list[dict]
    ) -> None:
        if self.guard is None:
            return
        # fp16 overflows are the scaler's business: it skips the step and lowers the scale.
        checked = None if self.scaler.is_enabled() else norm
        self.guard.check(losses, checked, step=self.iter, batch=batch, model=unwrap(self.model))

    def _step(self, batch: list[dict]) -> None:
        """The optimizer's step, and what follows the new weights; neither if fp16 overflowed."""
        self._stepped = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._stepped:
            self._skipped = 0
            if self._commit is not None:
                self._commit()
            if self.ema is not None:
                self.ema.update(unwrap(self.model))
            return
        self._discard()
        self._skipped += 1
        if self._skipped >= MOST_SKIPPED and self.guard is not None:
            self.guard.fail(
                f"fp16 gradients overflowed in {self._skipped} steps in a row",
                step=self.iter,
                batch=batch,
                model=unwrap(self.model),
            )

    def _note_step(self, *_: Any) -> None:
        self._stepped = True

    def _discard(self) -> None:
        discard = getattr(unwrap(self.model), "discard", None)
        if discard is not None:
            discard()

    def _forward_backward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        """Gradients of the mean loss over all micro-batches; returns the mean losses."""
        size = len(batch) // self.accumulate
        sums: dict[str, torch.Tensor] = {}
        for micro in range(self.accumulate):
            part = batch[micro * size : (micro + 1) * size]
            seed_everything(self.seed, "step", self.iter, micro, comm.get_rank())
            last = micro == self.accumulate - 1
            alone = isinstance(self.model, DistributedDataParallel) and not last
            with self.model.no_sync() if alone else nullcontext():  # type: ignore[operator]
                try:
                    with self._autocast():
                        losses = self.model(part)
                except FloatingPointError as error:  # how Detectron2's RPN meets a NaN
                    if self.guard is None:
                        raise
                    model = unwrap(self.model)
                    self.guard.fail(str(error), step=self.iter, batch=batch, model=model)
                loss = torch.stack([value.reshape(()) for value in losses.values()]).sum()
                self.scaler.scale(loss / self.accumulate).backward()
            for name, value in losses.items():
                mean = value.detach().reshape(()) / self.accumulate
                sums[name] = sums[name] + mean if name in sums else mean
        return sums

    def _autocast(self) -> Any:
        if self.amp_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)

    def _clip(self) -> torch.Tensor | None:
        """The norm of all gradients, which are clipped to `clip_norm` if that is set."""
        if self.guard is None and not self.clip_norm:
            return None
        self.scaler.unscale_(self.optimizer)
        gradients = [p for group in self.optimizer.param_groups for p in group["params"]]
        if not self.clip_norm and hasattr(nn.utils, "get_total_norm"):  # torch 2.6
            return nn.utils.get_total_norm([p.grad for p in gradients if p.grad is not None])
        return nn.utils.clip_grad_norm_(gradients, self.clip_norm or float("inf"))

    def _note_bad_files(self, batch: list[dict]) -> None:
        for sample in batch:
            for entry in sample.get("bad_files", ()):
                self.bad_files[entry] = self.bad_files.get(entry, 0) + 1
            boxless = sample.get("boxless", ())
            self.draws["all"] += 1 + len(boxless)
            self.draws["boxless"] += len(boxless)
            self.boxless = boxless[-1] if boxless else self.boxless

    def state_dict(self) -> dict[str, Any]:
        """Everything a resume needs besides the config: all else follows from the step."""
        state: dict[str, Any] = {
            "model": unwrap(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iter,
            "extra": extra_state(unwrap(self.model)),
            "bad_files": dict(self.bad_files),
            "draws": dict(self.draws),
            "metrics": self.metrics.state_dict(),
        }
        if self.notes:
            state["notes"] = dict(self.notes)
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state; the config's optimizer settings win over the saved ones."""
        model = unwrap(self.model)
        settings = [
            {k: v for k, v in group.items() if k != "params"}
            for group in self.optimizer.param_groups
        ]
        try:
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            first = " ".join(str(error).split())[:300]
            raise UserError(
                f"The checkpoint does not fit the config's model or optimizer ({first}); resume "
                "with the config.yaml of the run."
            ) from error
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)
        if self.scaler.is_enabled() and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            if "ema" in state:
                self.ema.load_state_dict(state["ema"])
            else:
                logger.warning("the checkpoint has no moving average: it starts from its weights")
                self.ema.restart(model)
        load_extra_state(model, state.get("extra", {}))
        self.bad_files = dict(state.get("bad_files", {}))
        self.draws = {**self.draws, **state.get("draws", {})}
        self.notes = dict(state.get("notes", {}))
        self.metrics.load_state_dict(state.get("metrics", {}))
        self.iter = state["iteration"]
