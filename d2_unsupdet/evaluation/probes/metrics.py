"""Scores of a classification: accuracy where each item has one class, average precision else."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2_unsupdet.evaluation.probes.data import ProbeSet


def average_precision(scores: Tensor, positive: Tensor, *, interpolated: bool = True) -> float:
    """Area under precision over recall, in [0, 1]; NaN without a positive.

    Items of one score are one step. VOC raises each precision to the best one at a higher recall
    (`interpolated`); without that it is scikit-learn's average precision.
    """
    if not positive.any():
        return float("nan")
    order = torch.argsort(scores, descending=True, stable=True)
    ranked = scores[order].double().cpu().numpy()
    hits = positive[order].cpu().numpy().astype(np.float64)
    last = np.append(np.nonzero(np.diff(ranked))[0], len(ranked) - 1)  # the end of each tie
    found = np.cumsum(hits)[last]
    recall, precision = found / found[-1], found / (last + 1)
    if interpolated:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def summarise(scores: Tensor, truth: ProbeSet) -> dict[str, Any]:
    """Percentages: accuracy (and top5 with more than five classes), or mAP and AP by class.

    Args:
        scores: (items, classes), larger is surer.
        truth: the items; a target of -1 is left out of its class.
    """
    if truth.single:
        labels, classes = truth.labels.to(scores.device), scores.shape[1]
        ranks = scores.topk(min(5, classes), dim=1).indices == labels[:, None]
        found = {"accuracy": 100 * float(ranks[:, 0].float().mean())}
        if classes > 5:
            found["top5"] = 100 * float(ranks.any(1).float().mean())
        return found
    each = {}
    for column, name in enumerate(truth.classes):
        target = truth.targets[:, column]
        used = target != -1
        each[name] = 100 * average_precision(scores[used, column], target[used] == 1)
    there = [value for value in each.values() if not np.isnan(value)]
    mean = float(np.mean(there)) if there else float("nan")
    return {"mAP": mean, "AP": {name: None if np.isnan(v) else v for name, v in each.items()}}


def headline(result: dict[str, Any]) -> float:
    """The number that a table shows."""
    return float(result["accuracy"] if "accuracy" in result else result["mAP"])
