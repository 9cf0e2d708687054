"""Pictures of a model's answers on its test set: some images, and those with the largest losses."""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from torch import nn

from d2_unsupdet.analysis.pictures import draw_predictions, draw_segmentation
from d2_unsupdet.analysis.which_boxes import as_objects, surest
from d2_unsupdet.data import DetectionMapper, SemanticMapper
from d2_unsupdet.data.images import BadImage
from d2_unsupdet.data.loader import TestLoader
from d2_unsupdet.engine.gallery import Drawn
from d2_unsupdet.engine.image_losses import image_losses, judging, told
from d2_unsupdet.engine.whole_images import as_it_is, short_names, spread_places
from d2_unsupdet.evaluation.clustering import ClusteringEvaluator, coarse_labels
from d2_unsupdet.seeding import seeded

SUREST = 10  # boxes of a detector without classes
THRESHOLD = 0.3  # score of what is drawn of one with classes
UNSURE = 3  # boxes of one that is sure of nothing

logger = logging.getLogger(__name__)


class AnswerPictures:
    """Draws what a model answers.

    Args:
        loader: of the test set.
        class_names: of that.
        evaluator: that scored it; one of clusters knows the class of each.
        training_mapper: says whether objects have masks.
    """

    def __init__(
        self,
        *,
        loader: TestLoader,
        class_names: Sequence[str],
        evaluator: DatasetEvaluator | None = None,
        training_mapper: Any = None,
    ) -> None:
        self.dataset, self.class_names, self.evaluator = loader.dataset, class_names, evaluator
        self.labelled = _with_labels(loader.dataset.mapper, training_mapper)

    def predictions(self, model: nn.Module, count: int) -> Iterator[Drawn]:
        """The same images at every call; `model` is in evaluation."""
        step = max(1, len(self.dataset) // count)
        places = range(0, min(len(self.dataset), step * count), step)
        names = short_names([self.dataset.records[place]["file_name"] for place in places])
        for place, name in zip(places, names, strict=True):
            drawn = self._draw(model, place, name)
            if drawn is not None:
                yield drawn

    def failures(self, model: nn.Module, count: int, *, among: int) -> Iterator[Drawn]:
        """The images with the largest losses, the worst first.

        Args:
            model: supervised; a pretext's loss says nothing of an answer.
            count: how many are drawn.
            among: how many are looked at, evenly spaced.
        """
        if self.labelled is None:
            return
        with judging(model):
            found = dict(self._losses(model, spread_places(len(self.dataset), among)))
        model.eval()
        worst = sorted(found, key=lambda place: -sum(found[place].values()))[:count]
        names = short_names([self.dataset.records[place]["file_name"] for place in worst])
        for rank, (place, name) in enumerate(zip(worst, names, strict=True), start=1):
            losses = found[place]
            drawn = self._draw(model, place, name)
            if drawn is not None:
                caption = f"{name}: loss {told(losses)}, number {rank} of {len(found)} images"
                yield Drawn(name, drawn.image, caption, sum(losses.values()), drawn.alt)

    def _losses(
        self, model: nn.Module, places: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, float]]]:
        assert self.labelled is not None
        for place in places:
            try:
                with seeded("test", place):
                    sample = self.labelled(dict(self.dataset.records[place]))
            except BadImage:
                continue  # the evaluation has named it
            if "instances" in sample or "sem_seg" in sample:
                yield place, image_losses(model, sample, place=place)

    def _draw(self, model: nn.Module, place: int, name: str) -> Drawn | None:
        sample = self.dataset[place]
        if sample is None or "error" in sample:
            return None
        record, found = self.dataset.records[place], model([sample])[0]
        if "sem_seg" in found:
            if "sem_seg" not in sample and self.labelled is not None:
                sample = self.labelled(dict(record))
            return self._segmentation(name, sample, found["sem_seg"])
        return self._boxes(name, record, found["instances"]) if "instances" in found else None

    def _boxes(self, name: str, record: dict, answer: Instances) -> Drawn:
        truth = as_it_is(record, masks=answer.has("pred_masks"))
        real, names, top = truth.get("instances"), self.class_names, None
        if getattr(self.evaluator, "class_agnostic", False):
            # Of a detector that only was pretrained the order says more than the scores.
            real, names, top = None if real is None else as_objects(real), ["object"], SUREST
        answer = answer.to("cpu")
        if top is None and not (answer.scores >= THRESHOLD).any():
            top = UNSURE  # rather than an empty picture; their scores stand beside them
        drawn = draw_predictions(truth["image"], real, answer, names, threshold=THRESHOLD, top=top)
        shown = surest(answer, THRESHOLD, top)
        said = f"predicted: {_counts(shown.pred_classes, names)}"
        if real is not None:
            said = f"labelled: {_counts(real.gt_classes, names)}; {said}"
        return Drawn(name, drawn, name, alt=f"{name}, {said}")

    def _segmentation(self, name: str, sample: Mapping[str, Any], strengths: torch.Tensor) -> Drawn:
        labels, classes = sample.get("sem_seg"), strengths.argmax(dim=0).cpu()
        if isinstance(self.evaluator, ClusteringEvaluator):
            if labels is not None:
                labels = coarse_labels(labels, self.evaluator.metadata)
            if self.evaluator.assignment is not None:
                classes = torch.tensor(self.evaluator.assignment)[classes]
        drawn = draw_segmentation(sample["image"], labels, classes, self.class_names)
        return Drawn(name, drawn, name, alt=f"{name}: image, label map and prediction")


def _with_labels(mapper: Any, training_mapper: Any) -> Any:
    """The test set's mapper, with labels as the training set's has them; None of unknown ones."""
    if isinstance(mapper, SemanticMapper):
        return mapper  # it reads the labels that there are
    if not isinstance(mapper, DetectionMapper):
        return None
    own = copy.copy(mapper)
    own.is_train = True
    if isinstance(training_mapper, DetectionMapper):
        own.use_instance_mask = training_mapper.use_instance_mask
        own.instance_mask_format = training_mapper.instance_mask_format
    return own


def _counts(classes: torch.Tensor, names: Sequence[str]) -> str:
    """ "2 cat, 1 dog"."""
    numbers = np.unique(classes.cpu().numpy(), return_counts=True)
    said = [
        f"{count} {names[k] if k < len(names) else k}" for k, count in zip(*numbers, strict=True)
    ]
    return ", ".join(said) or "nothing"
