"""UP-DETR and Siamese DETR: queries are told which region to look for, and must describe it."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_unsupdet.detectors.assignment import OverlapAssigner
from d2_unsupdet.detectors.boxes import full_precision
from d2_unsupdet.detectors.criterion import average_count, flat_index
from d2_unsupdet.detectors.layers import MLP
from d2_unsupdet.detectors.structures import Decoded, Matches, Queries, Target
from d2_unsupdet.metrics import log_metric
from d2_unsupdet.pretext.box_pretext import BoxPretext, Losses, matched_layers


class RegionPretext(BoxPretext):
    """Queries conditioned on regions; the hidden state of a matched query gives the region back.

    Args:
        feature_weight: of the reconstruction, at every decoder layer; 0 builds no head for it.
        match_within_group: a region's queries may only match their own region. In the originals any
            query may take any region; the overlap assigner always keeps to the group.
        options: of `BoxPretext`.
    """

    def __init__(
        self, *, feature_weight: float, match_within_group: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        dim = self.detector.query_source.dim
        self.feature_weight, self.match_within_group = feature_weight, match_within_group
        self.patch2query = nn.Linear(self.embedding_dim, dim)
        self.feature_head = MLP(dim, dim, self.embedding_dim) if feature_weight else None

    def allowed(self, queries: Queries, regions: int) -> Tensor | None:
        """(N, M): which query may take which region."""
        overlap = isinstance(self.detector.criterion.assigner, OverlapAssigner)
        if queries.group is None or not (overlap or self.match_within_group):
            return None
        return queries.group[:, None] == torch.arange(regions, device=queries.group.device)

    def feature_losses(
        self, decoded: Decoded, matches: Matches, targets: Sequence[Target], goal: Tensor
    ) -> Losses:
        """Squared distance of unit vectors, 2 - 2 cos; `goal` (regions of all images, C)."""
        if self.feature_head is None:
            return {}
        first, layers = matched_layers(matches, self.detector.criterion.auxiliary)
        layer, image, query, row = flat_index(layers, targets, decoded.hidden.device)
        found = self.feature_head(decoded.hidden[first:][layer, image, query])
        with torch.autocast(found.device.type, enabled=False):
            unit, wanted = (F.normalize(full_precision(x), dim=1) for x in (found, goal[row]))
            apart = (unit - wanted).square().sum(1)
            sums = apart.new_zeros(len(layers)).index_add(0, layer, apart)
            values = self.feature_weight * sums / average_count(targets, decoded.boxes)
        log_metric("feature_similarity", 1 - apart.detach().sum() / 2 / max(1, len(apart)))
        names = [f"loss_feature_{first + i}" for i in range(len(layers) - 1)] + ["loss_feature"]
        return dict(zip(names, values.unbind(), strict=True))
