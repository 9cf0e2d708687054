"""Detectron2's R-CNNs and RetinaNet as functions of tensors, by their own public parts.

Their own inference asks the data whether to filter, which torch.export cannot follow. Here whatever
they would leave out early (empty proposals, low scores) is left out late, where it changes nothing:
a box without an area suppresses no other, nor does one of a lower score.
"""

from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from detectron2.structures import Boxes
from torch import Tensor

from d2_unsupdet.detectors.suppression import grouped_nms
from d2_unsupdet.errors import UserError
from d2_unsupdet.sharing.onnx_detectors import KINDS, Answer, OnCanvas


def per_anchor(x: Tensor, width: int) -> Tensor:
    """(1, A * width, H, W) of a head to (H * W * A, width), the order of the anchors."""
    return x[0].unflatten(0, (-1, width)).permute(2, 3, 0, 1).reshape(-1, width)


def clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes (n, 4) xyxy within a picture of `size` (height, width)."""
    limit = torch.stack([size[1], size[0], size[1], size[0]]).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def pooled(pooler: ROIPooler, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """`pooler` of one image, with as many boxes on every level: those of others are made tiny."""
    rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
    if len(maps) == 1:
        return pooler.level_poolers[0](maps[0], rois)
    levels = assign_boxes_to_levels(
        [Boxes(boxes)],
        pooler.min_level,
        pooler.max_level,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )
    tiny = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    parts = []
    for number, (level, features) in enumerate(zip(pooler.level_poolers, maps, strict=True)):
        own = levels == number
        regions = level(features, torch.where(own[:, None], rois, tiny))
        parts.append(regions * own[:, None, None, None])
    return torch.stack(parts).sum(0)


class RetinaNetOnCanvas(OnCanvas):
    """RetinaNet with Detectron2's head."""

    def detect(self, pixels: Tensor, mask: Tensor, size: Tensor) -> Answer:
        model = self.model
        maps = model.backbone(pixels)
        maps = [maps[name] for name in model.head_in_features]
        anchors = model.anchor_generator(maps)
        parts = []
        for logits, deltas, level in zip(*model.head(maps), anchors, strict=True):
            scores = per_anchor(logits, model.num_classes).sigmoid()
            count = min(model.test_topk_candidates, scores.numel())
            best, pairs = scores.flatten().topk(count)
            rows = torch.div(pairs, model.num_classes, rounding_mode="floor")
            boxes = model.box2box_transform.apply_deltas(
                per_anchor(deltas, 4)[rows], level.tensor[rows]
            )
            parts.append((boxes, best, pairs % model.num_classes))
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        kept = grouped_nms(boxes, scores, labels, model.test_nms_thresh)
        kept = kept[scores[kept] > model.test_score_thresh][: model.max_detections_per_image]
        return boxes[kept], scores[kept], labels[kept]


class RcnnOnCanvas(OnCanvas):
    """Faster and Mask R-CNN on C4 or FPN, without the masks."""

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__(model)
        if not isinstance(model.roi_heads, StandardROIHeads | Res5ROIHeads):
            raise UserError(
                f"{type(model.roi_heads).__name__} cannot be exported to ONNX; what can: "
                "StandardROIHeads, Res5ROIHeads and what derives from them."
            )

    def detect(self, pixels: Tensor, mask: Tensor, size: Tensor) -> Answer:
        maps = self.model.backbone(pixels)
        proposals, usable = self._proposals(maps, size)
        logits, deltas = self._heads(maps, proposals)
        predictor: Any = self.model.roi_heads.box_predictor
        classes = logits.shape[1] - 1
        scores = logits.softmax(-1)[:, :-1] * usable[:, None]
        boxes = predictor.box2box_transform.apply_deltas(deltas, proposals)
        boxes = boxes.unflatten(1, (-1, 4)).expand(-1, classes, -1)
        boxes = clipped(boxes.reshape(-1, 4), size)
        candidates = (scores.flatten() > predictor.test_score_thresh).nonzero()[:, 0]
        boxes, scores, labels = (
            boxes[candidates],
            scores.flatten()[candidates],
            candidates % classes,
        )
        kept = grouped_nms(boxes, scores, labels, predictor.test_nms_thresh)
        kept = kept[: predictor.test_topk_per_image]
        return boxes[kept], scores[kept], labels[kept]

    def _proposals(self, maps: dict[str, Tensor], size: Tensor) -> tuple[Tensor, Tensor]:
        """A fixed number of boxes, the best first, and which of them are any."""
        rpn: Any = self.model.proposal_generator
        levels = [maps[name] for name in rpn.in_features]
        anchors = rpn.anchor_generator(levels)
        parts = []
        for number, (logits, deltas, level) in enumerate(
            zip(*rpn.rpn_head(levels), anchors, strict=True)
        ):
            rank = per_anchor(logits, 1)[:, 0]
            best, rows = rank.topk(min(rpn.pre_nms_topk[False], len(rank)))
            boxes = rpn.box2box_transform.apply_deltas(
                per_anchor(deltas, 4)[rows], level.tensor[rows]
            )
            parts.append((clipped(boxes, size), best, torch.full_like(rows, number)))
        boxes, scores, groups = (torch.cat(part) for part in zip(*parts, strict=True))
        kept = grouped_nms(boxes, scores, groups, rpn.nms_thresh)
        sides = (boxes[:, 2:] - boxes[:, :2])[kept]
        kept = kept[(sides > rpn.min_box_size).all(1)]
        count = rpn.post_nms_topk[False]
        usable = torch.arange(count, device=kept.device) < torch.ones_like(kept).sum()
        kept = torch.cat([kept, kept.new_zeros(count)]).narrow(0, 0, count)
        return boxes[kept], usable

    def _heads(self, maps: dict[str, Tensor], proposals: Tensor) -> tuple[Tensor, Tensor]:
        heads: Any = self.model.roi_heads
        if isinstance(heads, Res5ROIHeads):
            levels = [maps[name] for name in heads.in_features]
            regions = heads.res5(pooled(heads.pooler, levels, proposals))
            return heads.box_predictor(regions.mean(dim=[2, 3]))
        levels = [maps[name] for name in heads.box_in_features]
        regions = pooled(heads.box_pooler, levels, proposals)
        return heads.box_predictor(heads.box_head(regions))


KINDS[GeneralizedRCNN] = RcnnOnCanvas
KINDS[RetinaNet] = RetinaNetOnCanvas
