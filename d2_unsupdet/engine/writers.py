"""Where scalars go: the terminal, JSON lines, TensorBoard, Weights & Biases.

The storage already holds means over a log period, so nothing is smoothed again.
"""

import datetime
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter, get_event_storage

from d2_unsupdet.analysis.score_names import is_score
from d2_unsupdet.errors import UserError

logger = logging.getLogger("d2_unsupdet.train")


class ConsoleWriter(EventWriter):
    """One line a period: progress, time left, losses, rate, speed, memory.

    Args:
        max_iter: the run's length.
    """

    def __init__(self, max_iter: int) -> None:
        self.max_iter = max_iter
        self._shown = -1
        self._start: tuple[int, float] | None = None

    def write(self) -> None:
        storage = get_event_storage()
        latest = {k: v for k, (v, it) in storage.latest().items() if it == storage.iter}
        done = storage.iter + 1
        if "total_loss" not in latest or storage.iter <= self._shown:
            return
        self._shown = storage.iter
        losses = [f"{name} {value:.4g}" for name, value in latest.items() if "loss" in name]
        scores = [
            f"{n} {v:.2f}" for n, v in latest.items() if n.endswith(("/AP", "/AP50", "/mIoU"))
        ]
        line = [f"step {done}/{self.max_iter}", f"eta {self._eta(done)}", *losses, *scores]
        line += [
            f"lr {latest['lr']:.3g}",
            f"{latest['time']:.3f} s/step (data {latest['data_time']:.3f})",
        ]
        if torch.cuda.is_available():
            line.append(f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
        logger.info("  ".join(line))

    def _eta(self, done: int) -> str:
        now = time.monotonic()
        if self._start is None:
            self._start = done, now
            step = get_event_storage().latest()["time"][0]
        else:
            # Wall clock since the first line: it includes evaluation and saving.
            step = (now - self._start[1]) / max(1, done - self._start[0])
        return str(datetime.timedelta(seconds=round(step * (self.max_iter - done))))


class WandbWriter(EventWriter):
    """Scalars and pictures to Weights & Biases, when `train.writers` names it."""

    def __init__(self, output_dir: Path, config: dict) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "train.writers asks for wandb, which is not installed; run 'pip install wandb'."
            ) from error
        # An id of the folder: a resumed run goes on in the same place.
        name = hashlib.sha256(str(output_dir.resolve()).encode()).hexdigest()[:16]
        self._as_image, self._images = wandb.Image, dict[str, Any]()
        self._run = wandb.init(dir=str(output_dir), id=name, config=config, resume="allow")
        self._last = -1

    def put_image(self, name: str, image: np.ndarray) -> None:
        """RGB (height, width, 3), for the next line."""
        self._images[name] = self._as_image(image)

    def write(self) -> None:
        storage = get_event_storage()
        new: dict[str, Any] = {k: v for k, (v, it) in storage.latest().items() if it > self._last}
        new |= self._images
        self._images.clear()
        if new:
            self._run.log(new, step=storage.iter)
        self._last = storage.iter

    def close(self) -> None:
        self._run.finish()


class WritersHook(PeriodicWriter):
    """Writes every `period` steps, and at once what an evaluation or a probe found in between: the
    run may be killed before the period's end, and its report is read while it goes on."""

    def after_step(self) -> None:
        storage = get_event_storage()
        # Not of just any scalar: Detectron2's heads leave some at every step.
        is_new = any(s == storage.iter and is_score(n) for n, (_, s) in storage.latest().items())
        if is_new and (storage.iter + 1) % self._period:
            for writer in self._writers:
                writer.write()
        else:
            super().after_step()


def cut_metrics(path: Path, start_iter: int) -> None:
    """Drop the lines of steps that will be run again, so that a resume duplicates none."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["iteration"] < start_iter:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the line that a kill cut short
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    os.replace(temporary, path)


def build_writers(
    names: list[str], output_dir: Path, *, max_iter: int, start_iter: int, config: dict
) -> list[EventWriter]:
    """The console and JSON lines always; `tensorboard` and `wandb` when named.

    A missing tensorboard costs a line in the log; a missing wandb, which was asked for, the run.
    """
    cut_metrics(output_dir / "metrics.json", start_iter)
    writers: list[EventWriter] = [
        ConsoleWriter(max_iter),
        JSONWriter(str(output_dir / "metrics.json")),
    ]
    for name in names:
        if name == "wandb":
            writers.append(WandbWriter(output_dir, config))
        elif name == "tensorboard":
            try:
                writers.append(
                    TensorboardXWriter(str(output_dir / "tensorboard"), purge_step=start_iter)
                )
            except ImportError:
                logger.info("tensorboard is not installed; metrics go to metrics.json only")
        else:
            raise UserError(f"train.writers: '{name}' is not one of tensorboard, wandb.")
    return writers
