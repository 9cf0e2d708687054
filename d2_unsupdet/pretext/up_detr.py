"""UP-DETR (Dai et al., arXiv:2011.09094): find random patches of an image in the image.

The mask of the original leaves queries without any partner when there are more patches than queries
a patch; here it comes from the queries' groups, for any numbers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from d2_unsupdet.detectors.detr import DETR
from d2_unsupdet.detectors.structures import Regions
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.box_pretext import Losses, Sample, field, name_of
from d2_unsupdet.pretext.region_pretext import RegionPretext
from d2_unsupdet.pretext.yaml_parts import region_parts

MAPPER = "PriorMapper(exactly=10, ...)"


@META_ARCH_REGISTRY.register()
class UPDETR(RegionPretext):
    """Queries carry the feature of a patch; their box must lie where the patch was cut out.

    ::

        model = UPDETR(detector=detector, levels=["res5"])
        losses = model(batch)  # image, priors (M, 4), crops (M, 3, s, s)
        weights = model.export()  # a DETR without its class head

    Args:
        detector: to pretrain; N queries must be a multiple of the M patches.
        levels: of the backbone, whose means over a patch are its feature.
        query_dropout: chance that a query goes without its patch.
        feature_weight: of reconstructing the patch's feature; 0 leaves it out.
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
        query_dropout: float = 0.1,
        feature_weight: float = 1.0,
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
        if not 0 <= query_dropout < 1:
            raise UserError(f"query_dropout={query_dropout} is a chance; it must lie in [0, 1).")
        self.query_dropout = query_dropout

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return region_parts(cfg, cls)

    def losses(self, batch: Sequence[Sample]) -> Losses:
        crops = stacked_crops(batch)
        boxes = field(batch, "priors", MAPPER)
        images = [sample["image"] for sample in batch]
        targets = self.targets(images, boxes, [name_of(sample) for sample in batch])
        goal = self.embed(crops.flatten(0, 1))  # (B * M, C)
        count = crops.shape[1]
        encoded = self.detector.encode(self.detector.features(self.detector.preprocess(batch)))
        regions = Regions(
            self.patch2query(goal).unflatten(0, (len(batch), count)),
            self._keep(len(batch), self.detector.query_source.count(encoded, count)),
        )
        queries = self.detector.queries(encoded, regions, targets if self.denoising else None)
        decoded = self.detector.decode(encoded, queries)
        losses, matches = self.detector.losses(
            decoded, encoded, queries, targets, self.allowed(queries, count)
        )
        return losses | self.feature_losses(decoded, matches, targets, goal)

    def _keep(self, images: int, queries: int) -> Tensor | None:
        if not self.query_dropout:
            return None
        return torch.rand(images, queries, device=self.device) >= self.query_dropout


def stacked_crops(batch: Sequence[Sample]) -> Tensor:
    """(B, M, 3, s, s); every image has the same number of regions."""
    crops = field(batch, "crops", MAPPER)
    counts = sorted({len(found) for found in crops})
    if len(counts) > 1 or not counts[0]:
        raise UserError(
            f"The images of one batch have {counts} regions, and queries are shared by one number "
            "of them: set exactly= in dataloader.train.mapper."
        )
    return torch.stack(crops)
