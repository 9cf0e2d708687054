"""Scores of clusters against classes: Hungarian assignment, accuracy and IoU, things and stuff.

The protocol of IIC and PiCIE (arXiv:2103.17070), except that things and stuff are split by class:
the official codes slice a matrix that is in the order of the clusters.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from d2_unsupdet.checkpoint.files import write_json
from d2_unsupdet.data import catalog
from d2_unsupdet.data.readers.common import warn_once
from d2_unsupdet.errors import UserError


class ClusteringEvaluator(DatasetEvaluator):
    """Compares `sem_seg` of the outputs (clusters, H, W) with `sem_seg` of the inputs (H, W).

    ::

        evaluator = ClusteringEvaluator(dataset_name="coco_stuff27_val")
        inference_on_dataset(model, loader, evaluator)  # loader maps with SegmentationTestMapper
        evaluator.assignment  # class of each cluster, -1 without one

    Args:
        dataset_name: its metadata has `stuff_classes`, perhaps `label_lookup` (class of each value
            in the label maps), `ignore_label` and `thing_class_ids`.
        output_dir: where `clusters.json` with the confusion matrix goes; None writes nothing.
        legacy_partition: also report things and stuff as the official codes have them, under
            `legacy-...`, to compare with published numbers. Wants as many clusters as classes.
        distributed: add up the counts of all processes.
    """

    def __init__(
        self,
        *,
        dataset_name: str,
        output_dir: str | None = None,
        legacy_partition: bool = False,
        distributed: bool = True,
    ) -> None:
        self.metadata = catalog.metadata(dataset_name)
        self.class_names = catalog.class_names(dataset_name, "stuff")
        self.things = set(self.metadata.get("thing_class_ids") or ())
        self.dataset_name, self.output_dir = dataset_name, output_dir
        self.legacy_partition, self.distributed = legacy_partition, distributed
        self.assignment: list[int] | None = None
        self._counts: Tensor | None = None

    def reset(self) -> None:
        self._counts = None

    @torch.no_grad()
    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping]) -> None:
        for sample, output in zip(inputs, outputs, strict=True):
            if "sem_seg" not in output:
                raise UserError(
                    "The model gives no 'sem_seg', which the clustering evaluator scores; set "
                    "dataloader.evaluator to one for this model."
                )
            if "sem_seg" not in sample:
                raise UserError(
                    f"The image {sample.get('file_name')} of '{self.dataset_name}' comes without "
                    "a label map; use a data set with labels and SegmentationTestMapper in "
                    "dataloader.test."
                )
            logits = output["sem_seg"]
            labels = coarse_labels(sample["sem_seg"], self.metadata).to(logits.device)
            self._count(labels, logits.argmax(dim=0), len(logits))

    def evaluate(self) -> OrderedDict | None:
        counts = self._gathered()
        if counts is None:
            return None
        classes = len(self.class_names)
        if not counts[:classes].sum():
            raise UserError(
                f"No pixel of '{self.dataset_name}' has a label in 0..{classes - 1}; check its "
                "label maps and classes.txt."
            )
        if counts[classes].sum():
            warn_once(
                f"{self.dataset_name}: {int(counts[classes].sum()):,} pixels with values that are "
                f"neither one of the {classes} classes nor the ignored label were left out."
            )
        confusion = counts[:classes]
        clusters = hungarian(confusion)
        self.assignment = clusters.classes
        scores = _report(clusters.matrix, self.class_names, self.things)
        if self.legacy_partition:
            scores |= legacy_scores(confusion, clusters.classes, len(self.things))
        if self.output_dir:
            Path(self.output_dir).mkdir(parents=True, exist_ok=True)
            content = {"classes": self.class_names, "class_of_cluster": clusters.classes}
            content |= {"pixels_class_cluster": confusion.tolist()}
            write_json(Path(self.output_dir) / "clusters.json", content)
        return OrderedDict(sem_seg=scores)

    def _count(self, labels: Tensor, clusters: Tensor, count: int) -> None:
        """One more row for stray values: they are left out, but counted."""
        classes = len(self.class_names)
        if labels.shape != clusters.shape:
            raise UserError(
                f"The model's map is {tuple(clusters.shape)} but the label map of "
                f"'{self.dataset_name}' is {tuple(labels.shape)}; the mapper of dataloader.test "
                "must ask for the size of the label map."
            )
        known = (labels != int(self.metadata.get("ignore_label", 255))) & (labels != -1)
        labels, clusters = labels[known], clusters[known]
        rows = torch.where((labels < 0) | (labels >= classes), classes, labels)
        found = torch.bincount(rows * count + clusters, minlength=(classes + 1) * count)
        found = found.view(classes + 1, count)
        self._counts = found if self._counts is None else self._counts + found

    def _gathered(self) -> np.ndarray | None:
        """The counts of all ranks on rank 0, None on the others. A rank may have seen no image."""
        own = None if self._counts is None else self._counts.cpu().numpy()
        parts = comm.gather(own) if self.distributed else [own]
        if self.distributed and not comm.is_main_process():
            return None
        found = [part for part in parts if part is not None]
        if not found:
            raise UserError(f"No image of '{self.dataset_name}' could be read, nothing to score.")
        return np.sum(found, axis=0)


@dataclass(frozen=True)
class Assigned:
    """Clusters that got their classes.

    Args:
        matrix: pixels, row = true class, column = class of the cluster; further columns hold the
            clusters without a class.
        classes: the class of each cluster, -1 without one.
    """

    matrix: np.ndarray
    classes: list[int]


def hungarian(confusion: np.ndarray) -> Assigned:
    """One cluster a class, so that most pixels are right; the counts need not be equal.

    Args:
        confusion: pixels (classes, clusters).
    """
    count, clusters = confusion.shape
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    matrix = np.zeros((count, max(count, clusters)), dtype=np.int64)
    matrix[:, rows] = confusion[:, columns]  # a class without a cluster keeps an empty column
    left = np.setdiff1d(np.arange(clusters), columns)
    matrix[:, count : count + len(left)] = confusion[:, left]
    classes = np.full(clusters, -1)
    classes[columns] = rows
    return Assigned(matrix[:, : count + len(left)], classes.tolist())


def coarse_labels(labels: Tensor, metadata: Metadata) -> Tensor:
    """Label values as classes: through the data set's `label_lookup`, if it has one."""
    lookup = metadata.get("label_lookup")
    if lookup is None:
        return labels.long()
    table = torch.as_tensor(lookup, device=labels.device)
    known = (labels >= 0) & (labels < len(table))
    void = int(metadata.get("ignore_label", 255))
    return torch.where(known, table[labels.long().clamp(0, len(table) - 1)], void)


def legacy_scores(confusion: np.ndarray, classes: Sequence[int], things: int) -> dict[str, float]:
    """Things and stuff as in the official codes: the first `things` *clusters*, and the rest.

    The square of these clusters alone, so that a thing taken for stuff is no error.
    """
    if confusion.shape[0] != confusion.shape[1] or not 0 < things < len(confusion):
        raise UserError(
            f"legacy_partition needs as many clusters as classes, things and stuff; there are "
            f"{confusion.shape[1]} clusters, {confusion.shape[0]} classes and {things} things."
        )
    by_cluster = confusion[list(classes)]  # row i: the class that cluster i got
    parts = {"things": slice(0, things), "stuff": slice(things, None)}
    found: dict[str, float] = {}
    for name, part in parts.items():
        scores = _scores(by_cluster[part, part], range(len(by_cluster[part])))
        found |= {f"legacy-{metric}-{name}": value for metric, value in scores.items()}
    return found


def _report(matrix: np.ndarray, names: Sequence[str], things: set[int]) -> dict[str, float]:
    """In percent and under Detectron2's names: pACC of pixels, mACC of classes, mIoU."""
    everything = range(len(matrix))
    report = _scores(matrix, everything)
    if things:
        parts = {"things": sorted(things), "stuff": sorted(set(everything) - things)}
        for part, classes in parts.items():
            found = _scores(matrix, classes)
            report |= {f"{metric}-{part}": value for metric, value in found.items()}
    ious = _ious(matrix)
    return report | {f"IoU-{name}": float(ious[k]) for k, name in enumerate(names)}


def _scores(matrix: np.ndarray, classes: Sequence[int]) -> dict[str, float]:
    """Means over some classes. IoU counts every confusion, also with the other classes."""
    chosen = list(classes)
    right = np.diagonal(matrix)[chosen].astype(float)
    true = matrix.sum(axis=1)[chosen].astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "mIoU": _mean(_ious(matrix)[chosen]),
            "mACC": _mean(100 * right / true),
            "pACC": float(100 * right.sum() / true.sum()),
        }


def _ious(matrix: np.ndarray) -> np.ndarray:
    """NaN where a class is neither there nor predicted."""
    count = len(matrix)
    right = np.diagonal(matrix).astype(float)
    union = matrix.sum(axis=1) + matrix[:, :count].sum(axis=0) - right
    with np.errstate(invalid="ignore"):
        return 100 * right / union


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
