"""Overlap assignment (DETA, arXiv:2212.06137): a target teaches several queries that lie on it.

Detectron2's matcher and sampler decide, as for an RPN; then each target keeps at most n queries.
"""

from typing import Literal

import numpy as np
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels
from torch import Tensor
from torchvision.ops import box_iou

from d2_unsupdet.detectors.assigning import Stage
from d2_unsupdet.detectors.boxes import full_precision, to_xyxy
from d2_unsupdet.detectors.structures import Match
from d2_unsupdet.errors import UserError

Pairs = tuple[Tensor, Tensor]


class OverlapAssigner:
    """One assignment by IoU with the references (anchors, proposals), the same for all layers.

    Args:
        positive: IoU from which a query may learn a target.
        negative: IoU under which it counts as background; between the two it is not sampled. None
            is `positive`.
        samples: queries drawn an image; None for as many as there are.
        positive_fraction: most share of them that is positive.
        per_object: most queries of one target.
        balance: "count" is the released code: sample, then as many of the best overlaps as samples
            are left, at most `per_object`. "dynamic" is the paper's: no sampling, the threshold of
            a target rises to its `per_object`-th overlap.
        unique: a query that two targets chose learns the one it overlaps more. The original keeps
            both for the boxes and whichever is written last for the class.
        zero_overlap: a target that no reference touches is left out ("ignore"); in the original it
            makes every query positive and takes arbitrary ones.
    """

    def __init__(
        self,
        *,
        positive: float = 0.6,
        negative: float | None = None,
        samples: int | None = None,
        positive_fraction: float = 0.25,
        per_object: int = 4,
        balance: Literal["count", "dynamic"] = "count",
        unique: bool = True,
        zero_overlap: Literal["ignore", "original"] = "ignore",
    ) -> None:
        if negative is not None and negative > positive:
            raise UserError(
                f"OverlapAssigner: negative={negative} must not be above positive={positive}."
            )
        if balance not in ("count", "dynamic"):
            raise UserError(f"OverlapAssigner knows balance count and dynamic, not '{balance}'.")
        if zero_overlap not in ("ignore", "original"):
            raise UserError(
                f"OverlapAssigner knows zero_overlap ignore and original, not '{zero_overlap}'."
            )
        between = negative is not None and negative < positive
        self.matcher = Matcher(
            [negative, positive] if between else [positive],
            [0, -1, 1] if between else [0, 1],
            allow_low_quality_matches=True,
        )
        self.positive, self.samples, self.positive_fraction = positive, samples, positive_fraction
        self.per_object, self.balance = per_object, balance
        self.unique, self.zero_overlap = unique, zero_overlap

    def ask(self, stage: Stage) -> list[Tensor]:
        """The overlaps (n, N) of each image, -1 where a pair must not be."""
        if stage.reference is None or stage.reference.shape[-1] != 4:
            raise UserError(
                "OverlapAssigner compares boxes, and the queries of this detector start from none: "
                "use it with proposals or learned anchors, or take HungarianAssigner."
            )
        reference = to_xyxy(full_precision(stage.reference))
        overlaps = []
        for image, target in enumerate(stage.targets):
            iou = box_iou(to_xyxy(target.boxes.to(reference.dtype)), reference[image])
            if stage.blocked is not None:
                iou = iou.masked_fill(stage.blocked[image], -1)
            if stage.allowed is not None:
                iou = iou.masked_fill(~stage.allowed[:, : len(target)].T, -1)
            overlaps.append(iou)
        return overlaps

    def answer(self, stage: Stage, asked: list[Tensor]) -> list[Match]:
        pairs = []
        for target, iou in zip(stage.targets, asked, strict=True):
            if not torch.isfinite(iou).all():
                raise FloatingPointError(
                    f"The overlaps of image {target.name} are not finite: its proposals or its "
                    "boxes are NaN or infinite. Lower the learning rate, or look at its labels."
                )
            query, chosen = self.pairs(iou.clamp(min=0))
            free = iou[chosen, query] >= 0
            pairs.append((query[free], chosen[free]))
        match = Match([query for query, _ in pairs], [target for _, target in pairs])
        return [match] * len(stage.logits)

    def pairs(self, iou: Tensor) -> Pairs:
        """Overlaps (n, N) of one image to query and target indices."""
        touched = torch.arange(len(iou))
        if self.zero_overlap == "ignore":
            touched = (iou.amax(1) > 0).nonzero().flatten() if iou.numel() else touched[:0]
        if not len(touched) or not iou.shape[1]:
            return torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
        iou = iou[touched]
        query, target = self._dynamic(iou) if self.balance == "dynamic" else self._counted(iou)
        if self.unique:
            query, target = _keep_best(query, target, iou)
        return query, touched[target]

    def _counted(self, iou: Tensor) -> Pairs:
        matched, labels = self.matcher(iou)
        samples = iou.shape[1] if self.samples is None else self.samples
        sampled, _ = subsample_labels(labels, samples, self.positive_fraction, 0)
        counts = torch.bincount(matched[sampled], minlength=len(iou))
        best = iou.topk(min(self.per_object, iou.shape[1]), dim=1).indices
        kept = torch.arange(best.shape[1]) < counts[:, None]
        return best[kept], kept.nonzero()[:, 0]

    def _dynamic(self, iou: Tensor) -> Pairs:
        matched, labels = self.matcher(iou)
        rank = min(self.per_object, iou.shape[1])
        threshold = iou.topk(rank, dim=1).values[:, -1].clamp(min=self.positive)
        own = iou.amax(0)
        # Low-quality matches stand below the threshold: they are their target's only ones.
        low = own < self.positive
        query = ((labels == 1) & (low | (own >= threshold[matched]))).nonzero().flatten()
        return query, matched[query]


def _keep_best(query: Tensor, target: Tensor, iou: Tensor) -> Pairs:
    """Each query once, with the target it overlaps most."""
    order = iou[target, query].argsort(stable=True).numpy()
    owner = np.full(iou.shape[1], -1)
    for position in order:  # later ones overlap more
        owner[query[position]] = int(target[position])
    mine = torch.from_numpy(owner)[query] == target
    return query[mine], target[mine]
