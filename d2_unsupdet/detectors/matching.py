"""One-to-one matching: the cheapest assignment of targets to queries (DETR, arXiv:2005.12872)."""

from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import generalized_box_iou

from d2_unsupdet.detectors.assigning import Stage
from d2_unsupdet.detectors.boxes import full_precision, to_xyxy
from d2_unsupdet.detectors.structures import Match

FORBIDDEN = 1e6  # far above any sum of costs, and finite: an assignment always exists


class HungarianAssigner:
    """A fresh one-to-one assignment for every layer.

    Args:
        classification: "focal" or "softmax" class cost, as the loss; "log_softmax" is -log p, where
            the originals have -p.
        class_cost: weight of the class cost.
        box_cost: weight of the L1 distance.
        giou_cost: weight of the negative generalised IoU.
        alpha, gamma: of the focal cost.
    """

    def __init__(
        self,
        *,
        classification: Literal["focal", "softmax", "log_softmax"] = "focal",
        class_cost: float = 2.0,
        box_cost: float = 5.0,
        giou_cost: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        self.classification = classification
        self.class_cost, self.box_cost, self.giou_cost = class_cost, box_cost, giou_cost
        self.alpha, self.gamma = alpha, gamma

    def ask(self, stage: Stage) -> list[Tensor]:
        """The costs (D, N, n) of each image."""
        return [self._cost(stage, image) for image in range(len(stage.targets))]

    def answer(self, stage: Stage, asked: list[Tensor]) -> list[Match]:
        for target, cost in zip(stage.targets, asked, strict=True):
            if not torch.isfinite(cost).all():
                raise FloatingPointError(
                    f"The matching cost of image {target.name} is not finite: its predictions or "
                    "its boxes are NaN or infinite. Lower the learning rate, or look at its labels."
                )
        return [
            _match([_solve(cost[layer].numpy()) for cost in asked])
            for layer in range(len(stage.logits))
        ]

    def _cost(self, stage: Stage, image: int) -> Tensor:
        target = stage.targets[image]
        boxes = full_precision(stage.boxes[:, image])  # (D, N, 4)
        flat, goal = boxes.flatten(0, 1), target.boxes.to(boxes.dtype)
        giou = generalized_box_iou(to_xyxy(flat), to_xyxy(goal))
        near = self.box_cost * torch.cdist(flat, goal, p=1) - self.giou_cost * giou
        near = near.unflatten(0, boxes.shape[:2])
        cost = near + self.class_cost * self._class_cost(stage.logits[:, image], target.labels)
        if stage.blocked is not None:
            cost = cost.masked_fill(stage.blocked[image][:, None], FORBIDDEN)
        if stage.allowed is not None:
            cost = cost.masked_fill(~stage.allowed[:, : len(target)], FORBIDDEN)
        return cost

    def _class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(D, N, K) and (n,) to (D, N, n)."""
        logits = full_precision(logits)
        if self.classification == "softmax":
            return -logits.softmax(-1)[..., labels]
        if self.classification == "log_softmax":
            return -logits.log_softmax(-1)[..., labels]
        p = logits[..., labels].sigmoid()
        hit = self.alpha * (1 - p) ** self.gamma * -(p + 1e-8).log()
        miss = (1 - self.alpha) * p**self.gamma * -(1 - p + 1e-8).log()
        return hit - miss


def _solve(cost: np.ndarray) -> tuple[Tensor, Tensor]:
    query, target = linear_sum_assignment(cost)
    chosen = cost[query, target] < FORBIDDEN / 2
    return torch.from_numpy(query[chosen]), torch.from_numpy(target[chosen])


def _match(pairs: list[tuple[Tensor, Tensor]]) -> Match:
    return Match([query for query, _ in pairs], [target for _, target in pairs])
