"""Hooks around the step: log, save, evaluate, export. They read the trainer and change nothing."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.checkpoint.export import export_weights
from d2_unsupdet.engine.model_state import extra_state, load_extra_state, share_statistics
from d2_unsupdet.engine.trainer import Trainer, unwrap
from d2_unsupdet.errors import UserError, nearest
from d2_unsupdet.metrics import below_floor
from d2_unsupdet.seeding import seeded

logger = logging.getLogger(__name__)
FEW_BAD = 10


def averaged(trainer: Trainer) -> AbstractContextManager[None]:
    """The moving average in the model, if the run has one: what is scored and exported."""
    if trainer.ema is None:
        return nullcontext()
    return trainer.ema.applied_to(unwrap(trainer.model))


class PeriodicHook(HookBase):
    """Acts after every `period` steps and after the last one.

    Args:
        period: in iterations; 0 acts at the end only.
    """

    trainer: Trainer

    def __init__(self, period: int) -> None:
        self.period = period

    @property
    def is_last(self) -> bool:
        return self.trainer.iter + 1 >= self.trainer.length

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.is_last or (self.period > 0 and done % self.period == 0):
            self.act()

    def act(self) -> None:
        raise NotImplementedError


class MetricsHook(PeriodicHook):
    """Moves the period's mean metrics into the event storage and watches the rate of bad files.

    Args:
        period: iterations between log lines.
        max_bad_rate: share of unreadable images at which the run stops: of those seen, once ten
            are unreadable, and of all after the first epoch; a single file is no share, unless
            it is 0. Likewise of the samples drawn, once
            ten of them were left without boxes, however long the run is.
    """

    def __init__(self, period: int, *, max_bad_rate: float = 0.01) -> None:
        super().__init__(period)
        self.max_bad_rate = max_bad_rate
        self.reported: set[str] = set()
        self.said_boxless = False

    def before_train(self) -> None:
        self._begin = time.monotonic()

    def after_step(self) -> None:
        if self.trainer.iter == self.trainer.start_iter and comm.is_main_process():
            # A period can be long: say early whether to wait.
            seconds = time.monotonic() - self._begin
            logger.info("first step after %.1f s", seconds)
        super().after_step()

    def act(self) -> None:
        scalars = self.trainer.metrics.flush()
        self.trainer.storage.put_scalars(smoothing_hint=False, **scalars)
        self._watch_floors(scalars)
        self._watch_files()
        self._watch_boxes()

    def _watch_floors(self, scalars: dict[str, float]) -> None:
        for name, floor in below_floor(scalars).items():
            if name not in self.reported:
                self.reported.add(name)
                logger.warning(
                    "%s is %.4f at step %d, under %.4f: the method is collapsing to one answer "
                    "for everything; see its page in docs/methods, and check the learning rate, "
                    "the batch norms and that a predictor keeps its rate (said once)",
                    name,
                    scalars[name],
                    self.trainer.iter + 1,
                    floor,
                )

    def _watch_files(self) -> None:
        """The same count and the same verdict on every rank: each file once, whoever met it."""
        bad = set().union(*comm.all_gather(set(self.trainer.bad_files)))
        for entry in sorted(bad - self.reported):
            logger.warning("unusable image, replaced by its neighbour: %s", entry)
        self.reported |= bad
        if not bad:
            return
        self.trainer.storage.put_scalar("bad_images", len(bad), smoothing_hint=False)
        plan = self.trainer.loader.plan
        seen = min(plan.size, (self.trainer.iter + 1) * plan.batch)
        # Until every image was seen, a handful of bad ones is no rate yet.
        enough = seen == plan.size or len(bad) >= FEW_BAD
        most = max(1, self.max_bad_rate * seen) if self.max_bad_rate else 0
        if enough and len(bad) > most:
            raise UserError(
                f"{len(bad)} of {seen} images could not be used, for example {min(bad)}; mend the "
                f"data or raise train.max_bad_images, now {self.max_bad_rate:g}."
            )

    def _watch_boxes(self) -> None:
        """A draw without boxes says little of its image, so only the share of draws counts."""
        trainer = self.trainer
        counts, examples = zip(*comm.all_gather((trainer.draws, trainer.boxless)), strict=True)
        drawn, boxless = (sum(count[key] for count in counts) for key in ("all", "boxless"))
        if not boxless:
            return
        trainer.storage.put_scalar("boxless_draws", boxless / drawn, smoothing_hint=False)
        text = f"{boxless} of {drawn} samples drawn had too few boxes"
        example = next((f", for example {example}" for example in examples if example), "")
        if not self.said_boxless:
            self.said_boxless = True
            logger.warning("%s%s: the next image takes their place (said once)", text, example)
        if boxless >= FEW_BAD and boxless > self.max_bad_rate * drawn:
            raise UserError(
                f"{text}{example}; find more boxes, cut less away, or raise "
                f"train.max_bad_images, now {self.max_bad_rate:g}."
            )


class CheckpointHook(PeriodicHook):
    """Saves the run; the state is gathered on rank 0, which alone writes."""

    def __init__(self, period: int, checkpointer: RunCheckpointer) -> None:
        super().__init__(period)
        self.checkpointer = checkpointer

    def act(self) -> None:
        # state_dict() may commit deferred updates, which talk to the other ranks: all build it.
        share_statistics(unwrap(self.trainer.model))
        state = self.trainer.state_dict()
        if comm.is_main_process():
            self.checkpointer.save(state, self.trainer.iter, final=self.is_last)
        comm.synchronize()


class EvaluationHook(PeriodicHook):
    """Evaluates (the moving average, if there is one) and keeps the best weights.

    Args:
        period: iterations between evaluations; the last step is always evaluated.
        evaluate: gives nested results, e.g. `{"bbox": {"AP": 31.2}}`; an empty dict scores nothing.
        checkpointer: where the best weights go.
        best_metric: slash-separated name of the score to keep the best of.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[], dict[str, Any]],
        checkpointer: RunCheckpointer,
        *,
        best_metric: str = "bbox/AP",
    ) -> None:
        super().__init__(period)
        self.evaluate, self.checkpointer, self.best_metric = evaluate, checkpointer, best_metric
        self.results: dict[str, Any] = {}

    def act(self) -> None:
        self.score()
        self.trainer.storage.put_scalars(smoothing_hint=False, **flatten_results_dict(self.results))

    def score(self) -> None:
        """Evaluate, and save the weights if they are the best so far."""
        model = unwrap(self.trainer.model)
        extra = extra_state(model)  # PreciseBN runs the model in training mode
        with seeded("evaluation", self.trainer.iter), averaged(self.trainer):
            self.results = self.evaluate()
            flat = flatten_results_dict(self.results)
            score = flat.get(self.best_metric)
            if flat and score is None:
                logger.warning(
                    "train.best_metric='%s' is no result, so no best weights are kept.%s",
                    self.best_metric,
                    nearest(self.best_metric, flat),
                )
            if comm.is_main_process() and score is not None:
                self.checkpointer.save_best(
                    {"model": model.state_dict()},
                    score,
                    iteration=self.trainer.iter,
                    metric=self.best_metric,
                )
        load_extra_state(model, extra)
        model.train()
        comm.synchronize()


class ExportHook(PeriodicHook):
    """Writes what transfers, `export.safetensors` and `export.pkl`, during and after pretraining.

    Args:
        period: iterations between exports.
        folder: where the two files go.
        meta: strings kept in the file: method, data set, ...
    """

    def __init__(self, period: int, folder: Path, meta: dict[str, str]) -> None:
        super().__init__(period)
        self.folder, self.meta = folder, meta
        self.paths: list[Path] = []

    def act(self) -> None:
        if not comm.is_main_process():
            return
        with averaged(self.trainer):
            state = unwrap(self.trainer.model).export()  # type: ignore[operator]
        meta = {**self.meta, "iteration": str(self.trainer.iter + 1)}
        self.paths = export_weights(state, self.folder / "export", meta=meta)
        if self.is_last:
            logger.info("exported %d tensors to %s", len(state), self.paths[0])
