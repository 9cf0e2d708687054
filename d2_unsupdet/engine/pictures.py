"""Pictures for the report: what a pretext sees at the start, what a detector finds at the end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.evaluation import DatasetEvaluator

from d2_unsupdet.analysis.pictures import (
    draw_predictions,
    draw_segmentation,
    draw_views,
    save_picture,
)
from d2_unsupdet.analysis.prior_pictures import draw_sample
from d2_unsupdet.analysis.which_boxes import as_objects
from d2_unsupdet.data import DetectionMapper
from d2_unsupdet.data.loader import TestLoader
from d2_unsupdet.engine.hooks import averaged
from d2_unsupdet.engine.trainer import Trainer, unwrap
from d2_unsupdet.evaluation.clustering import ClusteringEvaluator, coarse_labels
from d2_unsupdet.seeding import seeded

SUREST = 10  # boxes of a detector without classes


class PicturesHook(HookBase):
    """Draws some samples into the run folder; takes no random number from the run.

    Args:
        output: the run folder.
        count: pictures of each kind.
        evaluated: the test loader of a model that is scored; None for a pretext.
        class_names: of that data set.
        evaluator: that scored it; one of clusters knows the class of each.
    """

    trainer: Trainer

    def __init__(
        self,
        output: Path,
        count: int,
        evaluated: TestLoader | None = None,
        class_names: Sequence[str] = (),
        evaluator: DatasetEvaluator | None = None,
    ) -> None:
        self.output, self.count = output, count
        self.evaluated, self.class_names = evaluated, class_names
        self.evaluator = evaluator
        self.labelled = DetectionMapper(is_train=True, augmentations=[])

    def before_train(self) -> None:
        plan, dataset = self.trainer.loader.plan, self.trainer.loader.dataset
        for position in plan[0][: self.count]:
            sample = dataset[position]
            name = Path(sample.get("file_name", "")).name
            if "priors" in sample:
                save_picture(self.output, "priors", draw_sample(sample), f"{name}: boxes to find")
            elif "views" in sample:
                caption = f"{name}: two views and where they overlap"
                save_picture(self.output, "views", draw_views(sample), caption)
            else:
                return

    def after_train(self) -> None:
        finished = self.trainer.iter >= self.trainer.length
        if finished and self.evaluated is not None:
            with seeded("pictures"), averaged(self.trainer):
                self._draw_predictions(self.evaluated)

    @torch.no_grad()
    def _draw_predictions(self, loader: TestLoader) -> None:
        dataset = loader.dataset
        model = unwrap(self.trainer.model).eval()
        step = max(1, len(dataset) // self.count)
        for index in range(0, min(len(dataset), step * self.count), step):
            sample = dataset[index]
            if sample is None:
                continue
            picture = self._picture(dataset.records[index], sample, model([sample])[0])
            if picture is not None:
                name = Path(sample["file_name"]).name
                save_picture(self.output, "predictions", picture, name)
        model.train()

    def _picture(
        self, record: dict, sample: Mapping[str, Any], found: Mapping[str, Any]
    ) -> np.ndarray | None:
        if "sem_seg" in found:
            if "sem_seg" not in sample:
                sample = self.labelled(record)
            return self._segmentation(sample, found["sem_seg"])
        if "instances" not in found:
            return None
        truth = self.labelled(record)
        real, names, top = truth.get("instances"), self.class_names, None
        if getattr(self.evaluator, "class_agnostic", False):
            # Of a detector that only was pretrained the order says more than the scores.
            real, names, top = None if real is None else as_objects(real), ["object"], SUREST
        predicted = found["instances"].to("cpu")
        return draw_predictions(truth["image"], real, predicted, names, threshold=0.3, top=top)

    def _segmentation(self, sample: Mapping[str, Any], strengths: torch.Tensor) -> np.ndarray:
        labels, classes = sample.get("sem_seg"), strengths.argmax(dim=0).cpu()
        if isinstance(self.evaluator, ClusteringEvaluator):
            if labels is not None:
                labels = coarse_labels(labels, self.evaluator.metadata)
            if self.evaluator.assignment is not None:
                classes = torch.tensor(self.evaluator.assignment)[classes]
        return draw_segmentation(sample["image"], labels, classes, self.class_names)
