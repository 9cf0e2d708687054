"""A k-NN probe of the backbone while it is pretrained: whether features get better, for seconds."""

import logging
import time
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from d2_unsupdet.checkpoint.backbone import resnet_of
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.hooks import PeriodicHook, averaged
from d2_unsupdet.engine.trainer import unwrap
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.probes.data import KINDS, ProbeSet, read_probe_set, refuse_overlap
from d2_unsupdet.evaluation.probes.features import extract
from d2_unsupdet.evaluation.probes.knn import knn_scores
from d2_unsupdet.evaluation.probes.metrics import summarise

logger = logging.getLogger(__name__)
DEFAULT_SIZE = 224


class KnnProbeHook(PeriodicHook):
    """Writes `knn/accuracy` (or `knn/mAP`) of what would be exported now into the metrics.

    It looks at a frozen copy of the backbone on rank 0 and draws no random number of the run, which
    therefore ends in the same bits with and without it.

    Args:
        period: iterations between probes; the last step is always probed.
        train: data set whose classes are known.
        test: data set whose classes are guessed.
        labels: see `read_probe_set`.
        images: so many of each; 0 takes all.
        k: neighbours.
        size: side of the images in pixels.
        model: a method with a ResNet; one without is refused before the first step.
    """

    def __init__(
        self,
        period: int,
        *,
        train: str,
        test: str,
        labels: str = "auto",
        images: int = 1000,
        k: int = 20,
        size: int = DEFAULT_SIZE,
        model: nn.Module | None = None,
    ) -> None:
        super().__init__(period)
        self.names, self.labels, self.images = (train, test), labels, images
        self.k, self.size = k, size
        self.sets: tuple[ProbeSet, ProbeSet] | None = None
        if model is not None:
            resnet_of(model)

    def act(self) -> None:
        if comm.is_main_process():
            begin = time.monotonic()
            with averaged(self.trainer):
                net = resnet_of(unwrap(self.trainer.model)).to(self.trainer.device)
            found = self.probe(net)
            self.trainer.storage.put_scalars(smoothing_hint=False, **found)
            text = "  ".join(f"{name} {value:.2f}" for name, value in found.items())
            logger.info("step %d  %s  (%.1f s)", self.trainer.iter + 1, text, _since(begin))
        comm.synchronize()

    @torch.no_grad()
    def probe(self, net: nn.Module) -> dict[str, float]:
        """Scores of a frozen network, under `knn/`."""
        if self.sets is None:
            self.sets = self._read()
        known, unknown = (extract(net, one, size=self.size) for one in self.sets)
        scores = knn_scores(known[0]["conv5"], known[1].targets, unknown[0]["conv5"], k=self.k)
        result: dict[str, Any] = summarise(scores, unknown[1])
        return {f"knn/{name}": v for name, v in result.items() if isinstance(v, float)}

    def _read(self) -> tuple[ProbeSet, ProbeSet]:
        train = read_probe_set(self.names[0], labels=self.labels, images=self.images)
        options: dict[str, Any] = {"labels": train.kind, "images": self.images}
        return train, read_probe_set(self.names[1], classes=train.classes, **options)


def check_probe(options: DictConfig) -> None:
    """Refuse, before any work, data sets that are not there, that share images or whose labels are
    of no known kind."""
    if options.labels not in KINDS:
        raise UserError(
            f"train.knn_probe.labels='{options.labels}' is not one of {', '.join(KINDS)}."
        )
    catalog.check([options.train, options.test])
    kind = {"image": "image", "auto": None}.get(options.labels, "thing")
    catalog.class_names([options.train, options.test], kind)
    refuse_overlap(options.train, options.test, images=options.images)


def _since(begin: float) -> float:
    return time.monotonic() - begin
