"""DETReg (Bar et al., arXiv:2106.04550): predict the boxes of a proposal method, and their look.

Nothing is conditioned: the queries are those of the downstream detector.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from d2_unsupdet.detectors.boxes import full_precision
from d2_unsupdet.detectors.criterion import flat_index
from d2_unsupdet.detectors.detr import DETR
from d2_unsupdet.detectors.layers import MLP
from d2_unsupdet.detectors.structures import Decoded, Matches, Target
from d2_unsupdet.metrics import log_metric
from d2_unsupdet.pretext.box_pretext import BoxPretext, Losses, Sample, field, name_of
from d2_unsupdet.pretext.yaml_parts import box_parts

MAPPER = "PriorMapper(...)"
CROPS = "PriorMapper(crop_size=128, ...) (any PriorMapper if model.embedding_weight=0)"


@META_ARCH_REGISTRY.register()
class DETReg(BoxPretext):
    """Class and box losses on priors at every layer; the last one also gives each crop's embedding.

    ::

        model = DETReg(detector=detector, levels=["res3"])
        losses = model(batch)  # image, priors (M, 4), crops (M, 3, s, s); M may differ
        weights = model.export()

    Args:
        detector: to pretrain.
        levels: of the backbone, whose means over a crop are its embedding: res3 of a ResNet-50 has
            the 512 channels of the original.
        embedding_weight: of the mean L1 distance of embeddings; 0 leaves head and crops out.
        label: class index of "object".
        denoising: see `BoxPretext`.
    """

    @configurable
    def __init__(
        self,
        *,
        detector: DETR,
        levels: Sequence[str] = ("res3",),
        embedding_weight: float = 1.0,
        label: int = 0,
        denoising: bool = True,
    ) -> None:
        super().__init__(detector=detector, levels=levels, label=label, denoising=denoising)
        self.embedding_weight = embedding_weight
        dim = detector.query_source.dim
        self.embed_head = MLP(dim, dim, self.embedding_dim) if embedding_weight else None

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return box_parts(cfg, cls)

    def losses(self, batch: Sequence[Sample]) -> Losses:
        boxes = field(batch, "priors", MAPPER)
        images = [sample["image"] for sample in batch]
        targets = self.targets(images, boxes, [name_of(sample) for sample in batch])
        encoded = self.detector.encode(self.detector.features(self.detector.preprocess(batch)))
        queries = self.detector.queries(encoded, targets=targets if self.denoising else None)
        decoded = self.detector.decode(encoded, queries)
        losses, matches = self.detector.losses(decoded, encoded, queries, targets)
        if self.embed_head is not None:
            goal = self.embed(torch.cat(field(batch, "crops", CROPS)))
            losses["loss_embedding"] = self._embedding_loss(decoded, matches, targets, goal)
        return losses

    def _embedding_loss(
        self, decoded: Decoded, matches: Matches, targets: Sequence[Target], goal: Tensor
    ) -> Tensor:
        """Mean over matched pairs and channels of the last layer; 0 where nothing matched."""
        assert self.embed_head is not None
        _, image, query, row = flat_index(matches.layers[-1:], targets, goal.device)
        found = full_precision(self.embed_head(decoded.hidden[-1][image, query]))
        apart = (found - full_precision(goal)[row]).abs()
        log_metric("embedding_distance", apart.sum() / max(1, apart.numel()))
        return self.embedding_weight * apart.sum() / max(1, apart.numel())
