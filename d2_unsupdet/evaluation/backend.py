"""The COCO scoring loop, by faster-coco-eval when it is installed and pycocotools otherwise.

Both give the same bits, after one correction below; only the time differs. The averages are taken
here from the precision and recall arrays, so they too are the same for both.
"""

import contextlib
import copy
import importlib.util
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.ground_truth import GroundTruth

Backend = Literal["faster-coco-eval", "pycocotools"]
_AREAS = ("all", "small", "medium", "large")
# The tools hold an entry for each image and class: 24 million on LVIS, 2 million for 100 classes.
_CLASSES_AT_ONCE = 100
_chosen: set[str] = set()


@dataclass
class Curves:
    """What the COCO tools accumulate.

    Args:
        precision: (10 thresholds, 101 recalls, classes, 4 areas, limits), -1 where undefined.
        recall: (10 thresholds, classes, 4 areas, limits), -1 where undefined.
        limits: how many detections of an image count, ascending.
    """

    precision: np.ndarray
    recall: np.ndarray
    limits: list[int]

    def average_precision(
        self,
        *,
        iou: float | None = None,
        area: str = "all",
        category: int | Sequence[int] | None = None,
    ) -> float:
        """Mean over everything left open, times 100; nan when there is no ground truth."""
        values = self.precision[_threshold(iou), :, :, _AREAS.index(area), -1]
        return _mean(values if category is None else values[:, :, category])

    def average_recall(self, *, limit: int, area: str = "all") -> float:
        """Recall averaged over the ten thresholds at `limit` detections an image, times 100."""
        return _mean(self.recall[:, :, _AREAS.index(area), self.limits.index(limit)])


def choose_backend(wanted: str | None = None) -> Backend:
    """The back end to use; a missing or unknown one that was asked for is an error."""
    installed = importlib.util.find_spec("faster_coco_eval") is not None
    if wanted not in (None, "faster-coco-eval", "pycocotools"):
        raise UserError(
            f"Unknown COCO back end '{wanted}': use 'faster-coco-eval' or 'pycocotools'."
        )
    if wanted == "faster-coco-eval" and not installed:
        raise UserError(
            "The COCO back end faster-coco-eval is not installed: pip install faster-coco-eval."
        )
    backend: Backend = (
        "pycocotools" if wanted == "pycocotools" or not installed else "faster-coco-eval"
    )
    if backend not in _chosen:
        _chosen.add(backend)
        why = "" if installed else " (faster-coco-eval is not installed; the scores are the same)"
        logging.getLogger(__name__).info("COCO scores are computed by %s%s.", backend, why)
    return backend


def score(
    truth: GroundTruth,
    detections: Sequence[dict[str, Any]],
    task: str,
    *,
    limits: Sequence[int] = (1, 10, 100),
    class_agnostic: bool = False,
    federated: bool = False,
    backend: str | None = None,
) -> Curves:
    """Score detections in COCO result form whose image and category ids are those of `truth`.

    `class_agnostic` makes every category the same one, in ground truth and detections alike.
    `federated` is LVIS's rule: a class counts only on images that were searched for it; there
    faster-coco-eval is needed.
    """
    dataset = copy.deepcopy(truth.dataset)  # the tools write into what they are given
    results = [_one_task(detection, task, i + 1) for i, detection in enumerate(detections)]
    if class_agnostic:
        dataset["categories"] = [{"id": 1, "name": "object"}]
        for entry in (*dataset["annotations"], *results):
            entry["category_id"] = 1
    if federated:
        for category in dataset["categories"]:
            category.setdefault("frequency", "f")  # the tool groups by it and fails without
    coco, coco_eval = _tools(choose_backend(backend))
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for entries in (dataset["annotations"], results):
            side = coco()
            side.dataset = {**dataset, "annotations": entries}
            side.createIndex()
            sides.append(side)
        order = [1] if class_agnostic else truth.category_ids
        if not results and not dataset["annotations"]:
            return _nothing(len(order), sorted(limits))
        parts = []
        for start in range(0, len(order), _CLASSES_AT_ONCE):
            chunk = order[start : start + _CLASSES_AT_ONCE]
            evaluation = coco_eval(*sides, task, **({"lvis_style": True} if federated else {}))
            evaluation.params.maxDets = sorted(limits)
            evaluation.params.catIds = chunk
            evaluation.evaluate()
            evaluation.accumulate()
            parts.append(_curves(evaluation, chunk, sorted(limits)))
    return _joined(parts)


def _one_task(detection: dict[str, Any], task: str, new_id: int) -> dict[str, Any]:
    """A detection as the tools' `loadRes` would make it, which fails on an empty list."""
    from pycocotools import mask as mask_tools

    result = {k: v for k, v in detection.items() if k not in ("bbox", "segmentation")}
    result |= {"id": new_id, "iscrowd": 0}
    if task == "segm":
        rle = dict(detection["segmentation"])
        rle["counts"] = rle["counts"].encode() if isinstance(rle["counts"], str) else rle["counts"]
        return result | {"segmentation": rle, "area": float(mask_tools.area(rle))}
    x, y, w, h = detection["bbox"]
    return result | {"bbox": [x, y, w, h], "area": w * h}


def _tools(backend: Backend) -> tuple[Any, Any]:
    if backend == "faster-coco-eval":
        # Its progress lines, five for each task, would hide the scores in a training log.
        logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def _curves(evaluation: Any, category_ids: Sequence[int], limits: list[int]) -> Curves:
    """Class axis in the order of the model's class index, whatever the category ids are."""
    place = {category: i for i, category in enumerate(evaluation.params.catIds)}
    order = [place[category] for category in category_ids]
    shape = (len(evaluation.params.iouThrs), 101, len(place), len(_AREAS), len(limits))
    precision = np.asarray(evaluation.eval["precision"]).reshape(shape)
    recall = np.asarray(evaluation.eval["recall"]).reshape(shape[:1] + shape[2:])
    # pycocotools adds 2^-52 to the number of detections, which shows only when that number is 1:
    # a precision of 1 becomes 1 - 2^-52. Undone, so that both back ends give the same bits.
    precision = np.where(precision >= 1 - 2.0**-52, 1.0, precision)
    precision = np.ascontiguousarray(precision[:, :, order])
    return Curves(precision, np.ascontiguousarray(recall[:, order]), limits)


def _joined(parts: list[Curves]) -> Curves:
    """Curves of some classes each as those of all; every class is scored on its own."""
    precision = np.concatenate([part.precision for part in parts], axis=2)
    return Curves(precision, np.concatenate([part.recall for part in parts], 1), parts[0].limits)


def _nothing(classes: int, limits: list[int]) -> Curves:
    shape = (10, 101, classes, len(_AREAS), len(limits))
    return Curves(-np.ones(shape), -np.ones(shape[:1] + shape[2:]), limits)


def _threshold(iou: float | None) -> slice:
    if iou is None:
        return slice(None)
    index = round((iou - 0.5) / 0.05)
    return slice(index, index + 1)


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(np.mean(defined) * 100) if defined.size else float("nan")
