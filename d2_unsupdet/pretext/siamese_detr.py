"""Siamese DETR (Chen et al., arXiv:2303.18144): find the regions of one view in the other.

Both views are one batch of 2B images, view 0 first, so that every part of the detector runs once.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torchvision.ops import roi_align

from d2_unsupdet.detectors.boxes import full_precision
from d2_unsupdet.detectors.detr import DETR
from d2_unsupdet.detectors.structures import Encoded, Features
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import log_metric
from d2_unsupdet.pretext.box_jitter import jitter_boxes
from d2_unsupdet.pretext.box_pretext import Losses, Sample, field, name_of
from d2_unsupdet.pretext.region_pretext import RegionPretext
from d2_unsupdet.pretext.yaml_parts import region_parts

MAPPER = "SiamesePairMapper(...)"
CELLS = 7  # a side of RoIAlign, before its mean


@META_ARCH_REGISTRY.register()
class SiameseDETR(RegionPretext):
    """Queries carry a region of the other view; they give its place in this view and its feature.

    ::

        model = SiameseDETR(detector=detector, levels=["res5"])
        losses = model(batch)  # views (2, 3, h, w), priors (2, M, 4), crops (2, M, 3, s, s)
        weights = model.export()

    Args:
        detector: to pretrain; N queries must be a multiple of the M regions.
        levels: of the backbone: regions are read from them, and crops described by them.
        feature_weight: region discrimination, at every decoder layer.
        global_weight: discrimination of whole views by the encoder's memory; 0 builds no heads.
        jitter: most a side of a region moves before it is read, as a share of the box.
        aligned: RoIAlign with Detectron2's half-pixel correction; the original reads half a cell
            beside.
        ignore_padding: the memory's mean leaves padding out; in the original it counts.
        match_within_group: see `RegionPretext`.
        label: class index of "object".
        denoising: see `BoxPretext`.
    """

    @configurable
    def __init__(
        self,
        *,
        detector: DETR,
        levels: Sequence[str],
        feature_weight: float = 3.0,
        global_weight: float = 10.0,
        jitter: float = 0.1,
        aligned: bool = True,
        ignore_padding: bool = True,
        match_within_group: bool = False,
        label: int = 0,
        denoising: bool = True,
    ) -> None:
        super().__init__(
            detector=detector,
            levels=levels,
            feature_weight=feature_weight,
            match_within_group=match_within_group,
            label=label,
            denoising=denoising,
        )
        self.global_weight, self.jitter = global_weight, jitter
        self.aligned, self.ignore_padding = aligned, ignore_padding
        dim = detector.query_source.dim
        # Without the level that the neck adds on top.
        self.global_levels = len(detector.in_features)
        self.projector = _mlp(dim * self.global_levels, dim, 3) if global_weight else None
        self.predictor = _mlp(dim, dim, 2, last_norm=False) if global_weight else None

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return region_parts(cfg, cls)

    def losses(self, batch: Sequence[Sample]) -> Losses:
        views = field(batch, "views", MAPPER)
        priors = field(batch, "priors", MAPPER)
        images = [view[v] for v in range(2) for view in views]
        boxes = [prior[v] for v in range(2) for prior in priors]
        targets = self.targets(images, boxes, [name_of(sample) for sample in batch] * 2)
        features = self.detector.features(self.detector.preprocess([{"image": i} for i in images]))
        encoded = self.detector.encode(features)
        found = self.patch2query(self._read(features, torch.stack(boxes)))  # (2B, M, C)
        noised = targets if self.denoising else None
        queries = self.detector.queries(encoded, _swap(found), noised)
        allowed = self.allowed(queries, found.shape[1])
        queries = replace(queries, group=None)  # all queries see each other
        decoded = self.detector.decode(encoded, queries)
        losses, matches = self.detector.losses(decoded, encoded, queries, targets, allowed)
        crops = torch.stack(field(batch, "crops", MAPPER), dim=1)  # (2, B, M, 3, s, s)
        goal = self.embed(_swap(crops.flatten(0, 1)).flatten(0, 1))
        losses |= self.feature_losses(decoded, matches, targets, goal)
        return losses | self._global_loss(encoded)

    def _read(self, features: Features, boxes: Tensor) -> Tensor:
        """Means over regions (2B, M, 4) of the backbone's maps, side by side: (2B, M, C)."""
        boxes = boxes.to(self.device, non_blocking=True)
        if self.jitter:
            noise = torch.randn(boxes.shape, device=boxes.device)
            boxes = jitter_boxes(boxes, features.sizes, noise, amount=self.jitter)
        maps = dict(zip(self.detector.in_features, features.maps, strict=True))
        shapes = self.detector.backbone.output_shape()
        parts = []
        for level in self.levels:
            values, stride = full_precision(maps[level]), shapes[level].stride
            rows = list(boxes.to(values.dtype))
            cells = roi_align(values, rows, CELLS, 1 / stride, -1, self.aligned)
            parts.append(cells.mean(dim=(2, 3)))
        return torch.cat(parts, dim=1).unflatten(0, boxes.shape[:2])

    def _global_loss(self, encoded: Encoded) -> Losses:
        """2 - 2 cos of one view's prediction and the other's projection, both ways, halved."""
        if self.projector is None or self.predictor is None:
            return {}
        views = self.global_features(encoded).chunk(2)
        alone = len(views[0]) == 1 and isinstance(self.projector[1], nn.BatchNorm1d)
        if alone and self.training:
            raise UserError(
                "A batch norm cannot tell one image a process apart from itself: raise "
                "dataloader.train.total_batch_size, set train.sync_bn=True for several processes, "
                "or leave global discrimination out with model.global_weight=0."
            )
        # View by view: batch norm sees one kind of image at a time, as in the original.
        projected = [self.projector(view) for view in views]
        predicted = [self.predictor(view) for view in projected]
        apart = [
            2 - 2 * F.cosine_similarity(full_precision(p), full_precision(z.detach()))
            for p, z in zip(predicted, reversed(projected), strict=True)
        ]
        log_metric("global_similarity", 1 - torch.cat(apart).detach() / 2)
        unit = F.normalize(full_precision(projected[0].detach()), dim=1)
        # A collapsed encoder gives 0; embeddings spread evenly over the sphere give 1 / sqrt(dim).
        log_metric("global_feature_std", unit.std(dim=0, unbiased=False))
        return {"loss_global": self.global_weight * (apart[0].mean() + apart[1].mean()) / 2}

    def global_features(self, encoded: Encoded) -> Tensor:
        """Means of the memory, level beside level: (2B, C * levels)."""
        means, start = [], 0
        for height, width in encoded.shapes[: self.global_levels]:
            part = slice(start, start + height * width)
            tokens, mask = encoded.memory[:, part], encoded.mask[:, part, None]
            start = part.stop
            if not self.ignore_padding:
                means.append(tokens.mean(1))
                continue
            means.append(tokens.masked_fill(mask, 0).sum(1) / (~mask).sum(1).clamp(min=1))
        return torch.cat(means, dim=1)


def _swap(values: Tensor) -> Tensor:
    """What belongs to a view, to the other one: the halves of (2B, ...) change places."""
    return values.roll(len(values) // 2, 0)


def _mlp(width: int, dim: int, layers: int, *, last_norm: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = []
    for layer in range(layers):
        parts.append(nn.Linear(width if layer == 0 else dim, dim))
        last = layer == layers - 1
        if not last or last_norm:
            parts.append(nn.BatchNorm1d(dim))
        if not last:
            parts.append(nn.ReLU(inplace=True))
    return nn.Sequential(*parts)
