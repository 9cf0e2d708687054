"""Priors that are made anew every few epochs (JoinDet), kept as generations of a store in the run.

A generation is a function of the weights and of the one before: image by image, whatever the number
of processes. Its settings name both, so that a run that was killed takes up a finished generation
and makes an unfinished one again. Batches loaded with the old priors are thrown away at a refresh.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
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
from d2_unsupdet.engine.progress import Progress
from d2_unsupdet.engine.threads import in_threads
from d2_unsupdet.engine.trainer import Trainer, unwrap
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found, nothing
from d2_unsupdet.priors.generation import Generation
from d2_unsupdet.priors.names import UNREAD, common_root, image_name
from d2_unsupdet.priors.store import GenerationWriter, PriorStore
from d2_unsupdet.priors.stored import StoredBoxes
from d2_unsupdet.seeding import generator

logger = logging.getLogger(__name__)
Find = Callable[[], Found | None]
NOTE = "priors"  # the trainer's note: generation and hash, part of every checkpoint


class PriorRefreshHook(HookBase):
    """Makes generation 0 before the first step and the next one every `period` steps.

    Args:
        period: in iterations; 0 keeps generation 0.
        folder: of the run's store.
        loader: every training image once, without augmentation, one at a time (`RefreshMapper`).
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
        if not hasattr(model, "look_first"):
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
        if not self.period or done % self.period:
            return
        # Epochs are rounded to steps: what would serve a few last steps only is not worth its time.
        if 2 * (self.trainer.length - done) >= self.period:
            assert self.current is not None
            self._make(self.current.number + 1)

    def _make(self, number: int) -> None:
        model = unwrap(self.trainer.model)
        self.trainer.close_loader()  # its workers loaded ahead, with the boxes of before
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
        previous = self._source(number)
        return {
            **self.settings,
            "images": len(self.loader.dataset),
            "names": self._names,
            "label": getattr(model, "label", 0),
            "weights": None if first and self.start else state_digest(source.state_dict()),
            "previous": None if previous is None else previous.sha256,
            "fixed": first and self._fixed,
        }

    def _source(self, number: int) -> Generation | None:
        """What a generation begins with: the one before, or the store that is given."""
        if number:
            return self.current
        return self._given if self.start else None

    @property
    def _fixed(self) -> bool:
        """Whether boxes from elsewhere are all that there will ever be."""
        return bool(self.start) and not self.period

    @cached_property
    def _names(self) -> str:
        """A hash of the images: absolute, since names below a common root repeat in other data."""
        names = hashlib.sha256()
        for record in self.loader.dataset.records:
            size = record.get("width"), record.get("height")
            names.update(f"{image_name(record)}\x1f{size}\n".encode())
        return names.hexdigest()

    def _write(self, model: nn.Module, number: int, settings: Mapping[str, Any]) -> None:
        begin, training = time.monotonic(), model.training
        progress = Progress(f"generation {number} of the priors", len(self.loader))
        orders = self._given.manifest["orders"] if number == 0 and self._fixed else 0
        blind: list[str] = []
        model.eval()
        with self.store.write(
            number,
            settings,
            orders=orders,
            kinds=True,
            rank=comm.get_rank(),
            world=comm.get_world_size(),
            barrier=comm.synchronize,
        ) as writer:
            samples = (sample for batch in self.loader for sample in batch)
            looks = ((sample, self._look(model, sample, number)) for sample in samples)
            for sample, found in in_threads(looks):
                _add(writer, sample, nothing(orders or None) if found is None else found)
                if "reason" in sample:
                    blind.append(f"{sample['file_name']}: {sample['reason']}")
                progress.step()
        model.train(training)
        _tell_blind(number, [line for lines in comm.gather(blind) for line in lines])
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

    def _look(self, model: Any, sample: dict[str, Any], number: int) -> Find:
        """Finds the boxes of an image; what cannot be looked at keeps those it had, if any."""
        source = self._source(number)
        size = (sample["width"], sample["height"]) if "width" in sample else sample["recorded"]
        known = None if source is None else source.lookup(sample, *size)
        if number == 0 and source is not None:
            first = self._first(model, sample, known)
            return lambda: first
        if "reason" in sample:
            return lambda: known
        if number == 0:
            return model.look_first(sample)
        return model.look(sample, nothing() if known is None else known)

    def _first(self, model: Any, sample: dict[str, Any], known: Found | None) -> Found | None:
        if known is not None:
            drawn = known.drawn(generator("first priors", sample["index"]))
            return model.fixed_priors(known) if self._fixed else model.given_priors(drawn)
        if "width" in sample:
            raise UserError(
                f"train.refresh.start={self.start} has no boxes of "
                f"'{image_name(sample, self._given.root)}': extract them for the training set."
            )
        return None

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


def _add(writer: GenerationWriter, sample: Mapping[str, Any], found: Found) -> None:
    kinds = np.zeros(len(found), np.uint8) if found.kinds is None else found.kinds
    # The size of an unread file is not known, and its record may be wrong.
    width, height = (sample["width"], sample["height"]) if "width" in sample else UNREAD
    writer.add(sample, width, height, found.boxes, found.scores, kinds, found.orders)


def _tell_blind(number: int, lines: list[str]) -> None:
    if lines:
        shown = "; ".join(lines[:5]) + ("; ..." if len(lines) > 5 else "")
        logger.warning(
            "generation %d of the priors: %d images cannot be looked at and keep the boxes they "
            "had, if any: %s",
            number,
            len(lines),
            shown,
        )
