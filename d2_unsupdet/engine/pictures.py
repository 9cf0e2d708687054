"""Pictures of a run for the report and TensorBoard: what it sees, answers, attends to, fails at.

They take no random number of the run and leave the model, its modes and its metrics as they were:
a run ends in the same bits with and without them.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from d2_unsupdet.analysis.pictures import draw_views
from d2_unsupdet.analysis.prior_pictures import draw_sample, evenly
from d2_unsupdet.engine.answer_pictures import AnswerPictures
from d2_unsupdet.engine.gallery import Drawn, Gallery
from d2_unsupdet.engine.hooks import PeriodicHook, averaged
from d2_unsupdet.engine.insight_pictures import InsightPictures
from d2_unsupdet.engine.model_state import modes_kept
from d2_unsupdet.engine.refresh import PriorRefreshHook
from d2_unsupdet.engine.trainer import unwrap
from d2_unsupdet.engine.whole_images import short_names
from d2_unsupdet.metrics import metrics_apart
from d2_unsupdet.seeding import seeded

STAGES = 5  # of what is compared over a run: so many iterations stay in the folder
JUDGED = 1000  # test images whose loss is looked at, at most
VIEWS = {"views", "overlap", "flipped"}

logger = logging.getLogger(__name__)


class PicturesHook(PeriodicHook):
    """Draws at the start, every `period` steps and at the end.

    Args:
        period: in iterations; 0 draws at the start and at the end only.
        gallery: where pictures go.
        count: of each kind, at most.
        answers: of a model that is scored.
        insight: into a detector.
        refresh: whose generations of priors are drawn.
    """

    def __init__(
        self,
        period: int,
        *,
        gallery: Gallery,
        count: int,
        answers: AnswerPictures | None = None,
        insight: InsightPictures | None = None,
        refresh: PriorRefreshHook | None = None,
    ) -> None:
        super().__init__(period)
        self.gallery, self.count = gallery, count
        self.answers, self.insight, self.refresh = answers, insight, refresh
        self.seconds = 0.0
        self._generation: int | None = None
        self._broken: set[str] = set()

    def before_train(self) -> None:
        start = self.trainer.start_iter
        self.gallery.cut(start)
        if start == 0:
            with seeded("pictures"):
                samples = self._samples()
                self._draw("views", _views(samples), 0)
                self._draw("priors", _boxes(samples), 0)
        self._draw_generation()

    def after_step(self) -> None:
        self._draw_generation()
        if not self.is_last:  # what is last is drawn behind the last checkpoint
            super().after_step()

    def act(self) -> None:
        self._draw_model(self.trainer.iter + 1)

    def after_train(self) -> None:
        if self.trainer.iter < self.trainer.length:
            return
        storage: EventStorage = self.trainer.storage
        now, storage.iter = storage.iter, self.trainer.length - 1  # where the last scores are
        self._draw_model(self.trainer.length, final=True)
        storage.iter = now
        logger.info("pictures took %.1f s of this process", self.seconds)

    def _draw_model(self, done: int, *, final: bool = False) -> None:
        """What depends on the weights, which are the moving average's if there is one."""
        model = unwrap(self.trainer.model)
        with averaged(self.trainer), looking(model):
            if self.answers is not None:
                self._draw("predictions", self.answers.predictions(model, self.count), done)
            if self.answers is not None and final and not hasattr(model, "export"):
                # A fiftieth of the images trained on, without their gradients: under a hundredth
                # of the run.
                images = self.trainer.length * self.trainer.loader.plan.batch
                among = min(JUDGED, max(4 * self.count, images // 50))
                self._draw("failures", self.answers.failures(model, self.count, among=among), done)
            if self.insight is not None:
                self._draw("attention", self.insight.attention(model), done)
                planned = range(self.period, self.trainer.length, self.period or 1)
                stages = evenly([*planned, self.trainer.length], STAGES)
                self._draw("eigen", self.insight.eigen(model), done, stages)

    def _draw_generation(self) -> None:
        """A generation of priors that was made since the last look."""
        if self.refresh is None or self.insight is None:
            return
        generation, period = self.refresh.current, self.refresh.period
        if generation is None or generation.number == self._generation:
            return
        self._generation = generation.number
        planned = range(0, self.trainer.length, period or self.trainer.length)
        self._draw(
            "prior_evolution",
            self.insight.generation(generation),
            generation.number * period,
            evenly(planned, STAGES),
        )

    def _draw(
        self,
        group: str,
        pictures: Iterable[Drawn],
        done: int,
        stages: Iterable[int] = (),
    ) -> None:
        """Pictures are no reason to lose a run: what cannot be drawn is said once."""
        if group in self._broken:
            return
        begin, drawn = time.monotonic(), 0
        try:
            for picture in pictures:
                self.gallery.add(group, picture, iteration=done, storage=self.trainer.storage)
                drawn += 1
        except Exception as error:
            self._broken.add(group)
            logger.warning(
                "no pictures of %s from here on: %s: %s", group, type(error).__name__, error
            )
            logger.debug("traceback", exc_info=True)
        if drawn and group not in ("views", "priors"):
            self.gallery.keep_only(group, {*stages, done})
        self.seconds += time.monotonic() - begin

    def _samples(self) -> dict[str, dict[str, Any]]:
        """By name, the first that a pretext trains on; none of a detector's."""
        plan, dataset = self.trainer.loader.plan, self.trainer.loader.dataset
        begin = time.monotonic()
        samples: list[dict[str, Any]] = []
        for position in plan[0][: self.count]:
            sample = dataset[position]
            if "views" not in sample and "priors" not in sample:
                break
            samples.append(sample)
        self.seconds += time.monotonic() - begin
        names = short_names([str(sample.get("file_name", "")) for sample in samples])
        return dict(zip(names, samples, strict=True))


def _views(samples: dict[str, dict[str, Any]]) -> Iterator[Drawn]:
    for name, sample in samples.items():
        if sample.keys() >= VIEWS:
            caption = f"{name}: two views and where they overlap"
            yield Drawn(name, draw_views({"valid": True, **sample}), caption)


def _boxes(samples: dict[str, dict[str, Any]]) -> Iterator[Drawn]:
    for name, sample in samples.items():
        if "priors" in sample:
            yield Drawn(name, draw_sample(sample), f"{name}: boxes to find")


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """The model in evaluation; afterwards modes, metrics and random numbers as before."""
    with modes_kept(model), torch.no_grad(), seeded("pictures"), metrics_apart():
        model.eval()
        yield
