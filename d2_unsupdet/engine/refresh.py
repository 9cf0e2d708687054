"""Priors that are made anew every few epochs (JoinDet), kept as generations of a store in the run.

A generation is a function of the weights and of the one before: image by image, whatever the number
of processes. Its settings name both, so that a run that was killed takes up a finished generation
and makes an unfinished one again. Batches loaded with the old priors are thrown away at a refresh.
"""

import logging
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from d2_unsupdet.data.loader import TestLoader
from d2_unsupdet.engine.digest import state_digest
from d2_unsupdet.engine.model_state import share_statistics
from d2_unsupdet.engine.trainer import Trainer, unwrap
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found, nothing
from d2_unsupdet.priors.generation import Generation
from d2_unsupdet.priors.names import common_root, image_name
from d2_unsupdet.priors.store import GenerationWriter, PriorStore
from d2_unsupdet.priors.stored import StoredBoxes
from d2_unsupdet.seeding import generator

logger = logging.getLogger(__name__)
NOTE = "priors"  # the trainer's note: generation and hash, part of every checkpoint
SECONDS = 30.0  # between lines of progress


class PriorRefreshHook(HookBase):
    """Makes generation 0 before the first step and the next one every `period` steps.

    Args:
        period: in iterations; 0 keeps generation 0.
        folder: of the run's store.
        loader: every training image once, without augmentation, one at a time.
        start: a store whose boxes are generation 0; otherwise the model makes them.
        settings: plain values that say how priors are made; a change makes them anew.
    """

    trainer: Trainer

    def __init__(
        self,
        period: int,
        *,
        folder: Path,
        loader: TestLoader,
        start: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.period, self.loader, self.start = period, loader, start
        self.settings = dict(settings or {})
        self.store = PriorStore(folder, root=common_root(loader.dataset.records))
        self.current: Generation | None = None

    def before_train(self) -> None:
        model = unwrap(self.trainer.model)
        if not hasattr(model, "refreshed_priors"):
            raise UserError(
                f"{type(model).__name__} has no priors to refresh: leave dataloader.refresh out."
            )
        known = self.trainer.notes.get(NOTE)
        if known is None:
            self._make(0)
            return
        if known["generation"] in self.store.generations:
            found = self.store.open(known["generation"])
            if found.sha256 == known["sha256"]:
                self._use(found)
                return
        raise UserError(
            f"The checkpoint was trained on generation {known['generation']} of {self.store.path} "
            f"({known['sha256'][:12]}...), which is not there any more: bring it back, or start "
            "the run anew."
        )

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period and done % self.period == 0 and done < self.trainer.length:
            assert self.current is not None
            self._make(self.current.number + 1)

    def _make(self, number: int) -> None:
        model = unwrap(self.trainer.model)
        self.trainer.close_loader()
        share_statistics(model)
        settings = self._settings(model, number)
        # Every rank asks before any of them changes what is there.
        there = number in self.store.generations
        if comm.all_gather(there and self.store.open(number).settings == settings)[0]:
            logger.info("generation %d of the priors is there already", number)
        else:
            if there and comm.is_main_process():
                self.store.remove(number)
            comm.synchronize()
            self._write(model, number, settings)
        self._use(self.store.open(number))

    def _settings(self, model: nn.Module, number: int) -> dict[str, Any]:
        """What the generation is a function of."""
        detector = model.detector
        first = number == 0
        source: nn.Module = detector.backbone if first else detector  # type: ignore[assignment,union-attr]  # nn.Module's attributes
        previous = None if first else self.current
        given = self._given.sha256 if first and self.start else None
        return {
            **self.settings,
            "images": len(self.loader.dataset),
            "weights": None if given else state_digest(source.state_dict()),
            "previous": given if previous is None else previous.sha256,
        }

    def _write(self, model: nn.Module, number: int, settings: Mapping[str, Any]) -> None:
        begin, training = time.monotonic(), model.training
        progress = _Progress(number, len(self.loader))
        model.eval()
        with self.store.write(
            number,
            settings,
            kinds=True,
            rank=comm.get_rank(),
            world=comm.get_world_size(),
            barrier=comm.synchronize,
        ) as writer:
            for batch in self.loader:
                for sample in batch:
                    self._add(writer, model, sample, number)
                progress.step()
        model.train(training)
        counts = self.store.open(number).counts()
        logger.info(
            "generation %d of the priors: %d images in %.1f s, %.1f boxes each, %d without any",
            number,
            len(counts),
            time.monotonic() - begin,
            counts.mean() if len(counts) else 0.0,
            (counts == 0).sum(),
        )
        if not counts.any():
            raise UserError(
                f"Generation {number} of the priors has no box in any of {len(counts)} images: "
                "look at them in a larger size (dataloader.refresh.mapper.augmentations) or at a "
                "finer level (model.priors.stride), or begin with a store (train.refresh.start)."
            )

    def _add(
        self, writer: GenerationWriter, model: Any, sample: dict[str, Any], number: int
    ) -> None:
        width, height = sample["width"], sample["height"]
        if number == 0:
            found = self._first(model, sample)
        else:
            assert self.current is not None
            previous = self.current.lookup(sample, width, height)
            found = model.refreshed_priors(sample, nothing() if previous is None else previous)
        kinds = np.zeros(len(found), np.uint8) if found.kinds is None else found.kinds
        writer.add(sample, width, height, found.boxes, found.scores, kinds)

    def _first(self, model: Any, sample: dict[str, Any]) -> Found:
        if not self.start:
            return model.initial_priors(sample)
        found = self._given.lookup(sample, sample["width"], sample["height"])
        if found is None:
            raise UserError(
                f"train.refresh.start={self.start} has no boxes of "
                f"'{image_name(sample, self._given.root)}': extract them for the training set."
            )
        return model.given_priors(found.drawn(generator("first priors", sample["index"])))

    @cached_property
    def _given(self) -> Generation:
        return PriorStore(self.start).open()

    def _use(self, generation: Generation) -> None:
        """Samples loaded from here on have these priors."""
        self.current = generation
        mapper: Any = self.trainer.loader.dataset.mapper
        if not isinstance(getattr(mapper, "source", None), StoredBoxes):
            raise UserError(
                "Priors that are refreshed are read from the run's store: set "
                "dataloader.train.mapper.source to StoredBoxes(path='${train.output_dir}/priors')."
            )
        mapper.source = StoredBoxes(
            path=self.store.path, generation=generation.number, root=self.store.root
        )
        self.trainer.notes[NOTE] = {"generation": generation.number, "sha256": generation.sha256}
        self.trainer.close_loader()


class _Progress:
    """A line now and then: images done by this process, and when it will be through."""

    def __init__(self, number: int, total: int) -> None:
        self.number, self.total, self.done = number, total, 0
        self.begin = self.said = time.monotonic()

    def step(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.said < SECONDS:
            return
        self.said = now
        left = (now - self.begin) * (self.total - self.done) / self.done
        logger.info(
            "generation %d of the priors: %d of %d images, %.0f s left",
            self.number,
            self.done,
            self.total,
            left,
        )
