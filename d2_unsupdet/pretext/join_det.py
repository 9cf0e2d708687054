"""JoinDet: DETReg whose boxes live.

Its losses are DETReg's. Every few epochs the priors are made anew of what the encoder and the
decoder see by then, and smoothed with the previous ones; `engine/refresh.py` calls that and keeps
them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

from d2_unsupdet.detectors.detr import DETR
from d2_unsupdet.pretext.box_pretext import Sample
from d2_unsupdet.pretext.detreg import DETReg
from d2_unsupdet.pretext.living_priors import GIVEN, LivingPriors
from d2_unsupdet.priors.box_smooth import BoxSmooth, PriorUpdate
from d2_unsupdet.priors.found import Found


@META_ARCH_REGISTRY.register()
class JoinDet(DETReg):
    """DETReg with living priors.

    ::

        model = JoinDet(detector=detector)
        losses = model(batch)                              # as DETReg: image, priors, crops
        first = model.initial_priors(sample)               # one image, in evaluation mode
        second = model.refreshed_priors(sample, first)

    Args:
        detector: to pretrain.
        levels: of the backbone, for the embedding of a crop.
        embedding_weight: of the embedding loss.
        label: class index of "object".
        denoising: see `BoxPretext`.
        priors: what is found in an image.
        prior_update: how that joins what was found before.
    """

    @configurable
    def __init__(
        self,
        *,
        detector: DETR,
        levels: Sequence[str] = ("res3",),
        embedding_weight: float = 1.0,
        label: int = 0,
        denoising: bool = True,
        priors: LivingPriors | None = None,
        prior_update: PriorUpdate | None = None,
    ) -> None:
        super().__init__(
            detector=detector,
            levels=levels,
            embedding_weight=embedding_weight,
            label=label,
            denoising=denoising,
        )
        self.priors = LivingPriors() if priors is None else priors
        self.prior_update = BoxSmooth() if prior_update is None else prior_update

    def initial_priors(self, sample: Sample) -> Found:
        """Normalised boxes of one image before the first step: there is nothing to smooth yet."""
        return self.look_first(sample)()

    def look_first(self, sample: Sample) -> Callable[[], Found]:
        """The forward of `initial_priors`; what it returns needs no network, only time."""
        find = self.priors.look_first(self.detector, sample)
        return lambda: self._best(find())

    def given_priors(self, found: Found) -> Found:
        """Boxes from elsewhere as the first of an image, as they are.

        Their scores are on any scale, those of a refresh are chances: so 1 for the best, and evenly
        less down to the last that is kept.
        """
        best = self._best(found)
        scores = 1 - np.arange(len(best), dtype=np.float32) / max(1, len(best))
        return self.fixed_priors(Found(best.boxes, scores))

    def fixed_priors(self, found: Found) -> Found:
        """Boxes from elsewhere that nothing will be compared with: all, with all their orders."""
        return replace(found, kinds=np.full(len(found), GIVEN, np.uint8))

    def refreshed_priors(self, sample: Sample, previous: Found) -> Found:
        """The next normalised boxes of an image; the previous where nothing stands out."""
        return self.look(sample, previous)()

    def look(self, sample: Sample, previous: Found) -> Callable[[], Found]:
        """The forward of `refreshed_priors`, likewise."""
        find = self.priors.look(self.detector, sample, label=self.label)

        def join() -> Found:
            current = find()
            return previous if current is None else self.prior_update(previous, current)

        return join

    def _best(self, found: Found) -> Found:
        return found.take(np.argsort(-found.scores, kind="stable")[: self.prior_update.most])
