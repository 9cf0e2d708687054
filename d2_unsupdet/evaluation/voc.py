"""AP of the PASCAL VOC challenges (Everingham et al., 2010 and 2015).

Difficult objects neither count as missed nor as found. Detectron2's evaluator reads the XML files
of one year in one layout and rounds boxes to 0.1 pixel first; this one scores the records.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm

from d2_unsupdet.data import catalog
from d2_unsupdet.errors import UserError

Metric = Literal["11-point", "all-point"]
THRESHOLDS = tuple(range(50, 100, 5))  # percent; integers, so that 0.6 is 0.6
logger = logging.getLogger(__name__)


@dataclass
class Boxes:
    """Boxes of one class in one image: (n, 4) XYXY, and a score or a "difficult" flag for each."""

    boxes_xyxy: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    values: np.ndarray = field(default_factory=lambda: np.zeros(0))


class VocEvaluator(DatasetEvaluator):
    """VOC AP at one threshold and averaged over ten, times 100.

    Example::

        evaluator = VocEvaluator("voc_2007_test")
        results = inference_on_dataset(model, loader, evaluator)
        results["bbox"]["AP50"]

    Args:
        dataset_name: a name in the catalog; an annotation's `difficult` key is honoured.
        metric: "11-point" (VOC 2007) or "all-point" (2010 on); by the data set's year if not given.
        distributed: gather the predictions of all ranks; otherwise each rank scores its own.
    """

    def __init__(
        self, dataset_name: str, *, metric: Metric | None = None, distributed: bool = True
    ) -> None:
        if metric not in (None, "11-point", "all-point"):
            raise UserError(f"Unknown VOC metric '{metric}': use '11-point' or 'all-point'.")
        year = catalog.metadata(dataset_name).get("year")
        self.dataset_name = dataset_name
        self.metric: Metric = metric or ("11-point" if str(year) == "2007" else "all-point")
        self.distributed = distributed
        self._only: set[Any] | None = None
        self.reset()

    def restrict(self, image_ids: Iterable[Any]) -> None:
        """Score these images only, as if the data set had no others."""
        self._only = set(image_ids)

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: dict[Any, dict[int, Boxes]] = {}

    def process(self, inputs: Iterable[dict[str, Any]], outputs: Iterable[dict[str, Any]]) -> None:
        """Keep the predictions of a batch; the inputs name their images."""
        for record, output in zip(inputs, outputs, strict=True):
            found = output["instances"].to("cpu")
            boxes = found.pred_boxes.tensor.double().numpy()
            scores, classes = found.scores.double().numpy(), found.pred_classes.numpy()
            self._predictions[record["image_id"]] = {
                int(c): Boxes(boxes[classes == c], scores[classes == c]) for c in np.unique(classes)
            }

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Scores of everything processed since `reset`; empty on every rank but the first."""
        parts = [self._predictions]
        if self.distributed and comm.get_world_size() > 1:
            comm.synchronize()
            parts = comm.gather(self._predictions, dst=0)
            if not comm.is_main_process():
                return {}
        predictions = {image: found for part in parts for image, found in part.items()}
        records = catalog.get_dataset(self.dataset_name)
        if self._only is not None:
            records = [record for record in records if record["image_id"] in self._only]
        names = catalog.metadata(self.dataset_name).thing_classes
        missing = sum(record["image_id"] not in predictions for record in records)
        if missing:
            logger.warning(
                "%d of %d images of %s have no predictions; their objects count as missed.",
                missing,
                len(records),
                self.dataset_name,
            )
        truth = [_truth_by_class(record) for record in records]
        found_by_image = [predictions.get(record["image_id"], {}) for record in records]
        table = np.array(
            [
                [
                    class_ap(
                        [t.get(c, Boxes()) for t in truth],
                        [p.get(c, Boxes()) for p in found_by_image],
                        threshold / 100,
                        self.metric,
                    )
                    for c in range(len(names))
                ]
                for threshold in THRESHOLDS
            ]
        )  # (thresholds, classes)
        return self._summary(100 * table, names)

    def _summary(self, table: np.ndarray, names: list[str]) -> dict[str, dict[str, float]]:
        scores = OrderedDict(AP=_mean(table), AP50=_mean(table[:1]), AP75=_mean(table[5:6]))
        text = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
        logger.info("bbox on %s (VOC, %s): %s", self.dataset_name, self.metric, text)
        scores |= {f"AP50-{name}": float(table[0, c]) for c, name in enumerate(names)}
        return {"bbox": scores}


def class_ap(
    truth: list[Boxes], found: list[Boxes], threshold: float, metric: Metric = "all-point"
) -> float:
    """AP of one class over all images (fraction); nan when it has no object that counts.

    Greedy in the order of the scores: a detection takes the object it overlaps most, or is false
    when that one is taken; a detection on a difficult object is dropped.
    """
    positives = sum(int((boxes.values == 0).sum()) for boxes in truth)
    if positives == 0:
        return float("nan")
    ranked = sorted(
        ((score, i, j) for i, boxes in enumerate(found) for j, score in enumerate(boxes.values)),
        key=lambda item: -item[0],
    )
    overlaps = [box_iou(f.boxes_xyxy, t.boxes_xyxy) for f, t in zip(found, truth, strict=True)]
    taken = [np.zeros(len(boxes.values), dtype=bool) for boxes in truth]
    hits = []
    for _, i, j in ranked:
        best = int(overlaps[i][j].argmax()) if overlaps[i].shape[1] else -1
        if best < 0 or overlaps[i][j, best] <= threshold:
            hits.append(False)
        elif truth[i].values[best] == 0:
            hits.append(not taken[i][best])
            taken[i][best] = True
    true = np.cumsum(hits, dtype=float)
    recall, precision = true / positives, true / np.arange(1, len(hits) + 1)
    return _area(recall, precision, metric)


def box_iou(first_xyxy: np.ndarray, second_xyxy: np.ndarray) -> np.ndarray:
    """(n, m) overlaps, continuous coordinates: VOC's x1, y1, x2, y2 is here x1-1, y1-1, x2, y2."""
    low = np.maximum(first_xyxy[:, None, :2], second_xyxy[None, :, :2])
    high = np.minimum(first_xyxy[:, None, 2:], second_xyxy[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first_xyxy, second_xyxy)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _area(recall: np.ndarray, precision: np.ndarray, metric: Metric) -> float:
    if metric == "11-point":
        points = [precision[recall >= r].max(initial=0.0) for r in np.arange(0.0, 1.1, 0.1)]
        return float(np.mean(points))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _truth_by_class(record: dict[str, Any]) -> dict[int, Boxes]:
    entries = record.get("annotations", ())
    boxes = [BoxMode.convert(list(e["bbox"]), e["bbox_mode"], BoxMode.XYXY_ABS) for e in entries]
    boxes_xyxy = np.asarray(boxes, dtype=float).reshape(-1, 4)
    difficult = np.array([int(e.get("difficult", 0)) for e in entries])
    classes = np.array([e["category_id"] for e in entries], dtype=int)
    chosen = {int(c): classes == c for c in np.unique(classes)}
    return {c: Boxes(boxes_xyxy[mask], difficult[mask]) for c, mask in chosen.items()}


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
