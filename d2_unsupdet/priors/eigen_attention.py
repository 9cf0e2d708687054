"""Eigen attention: the foreground of a feature map by a normalised cut, and boxes of its regions.

As TokenCut (arXiv:2202.11539) does it on a transformer's keys, JoinDet on a detector's encoder. The
surprise: the tokens of a CNN or a DETR encoder nearly all point one way, every cosine exceeds tau
and the graph is constant; so the mean token is subtracted first, unless the config says otherwise.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from d2_unsupdet.checkpoint.backbone import FrozenResNet, load_resnet
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found, nothing
from d2_unsupdet.priors.normalized_cut import normalized_cut
from d2_unsupdet.priors.region_boxes import CellMask, region_boxes


class EigenAttention:
    """Which cells of a feature map are foreground.

    >>> attention = EigenAttention()
    >>> foreground = attention(features)     # (c, h, w) to (h, w) bool, or None

    Args:
        tau: cosine above which two cells are joined.
        eps: weight of all other edges.
        binary: joined cells weigh 1; False weighs them by their cosine.
        center: subtract the mean of the cells first.
        quantile: in place of tau: the share of pairs of cells, those least alike, not joined.
        least_gap: answers with less between the second and the third eigenvalue are left out.
        least, most: share of the cells that a foreground has.
    """

    def __init__(
        self,
        *,
        tau: float = 0.2,
        eps: float = 1e-5,
        binary: bool = True,
        center: bool = True,
        quantile: float | None = None,
        least_gap: float = 0.0,
        least: float = 0.0,
        most: float = 0.95,
    ) -> None:
        if quantile is not None and not 0 < quantile < 1:
            raise UserError(f"EigenAttention: quantile is {quantile}; it lies between 0 and 1.")
        self.graph = dict(tau=tau, eps=eps, binary=binary, center=center, quantile=quantile)
        self.least_gap, self.least, self.most = least_gap, least, most

    def __call__(self, features: Tensor) -> np.ndarray | None:
        """The foreground of one image's map, which holds no padding; None if there is none."""
        found = self.vector(features)
        if found is None:
            return None
        return found[1]

    def vector(self, features: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
        """The eigenvector as a picture (h, w), and the foreground (h, w)."""
        height, width = features.shape[-2:]
        tokens = features.detach().float().flatten(1).T.cpu().numpy()
        cut = normalized_cut(tokens, **self.graph)  # type: ignore[arg-type]  # a mixed dict
        share = cut.foreground.mean() if len(tokens) else 0.0
        unclear = cut.constant or cut.eigengap < self.least_gap
        if unclear or not self.least <= share <= self.most or not share:
            return None
        return cut.vector.reshape(height, width), cut.foreground.reshape(height, width)


class EigenBoxes:
    """Boxes of the foreground regions that a frozen backbone sees: JoinDet's first priors.

    Example:
        >>> source = EigenBoxes(weights="swav_800ep_pretrain.pth.tar")
        >>> source(record, pixels, rng).boxes

    Args:
        weights: of a ResNet in any known layout, a run's folder, or "random".
        level: of the ResNet; res4 has stride 16.
        short_edge: the image is resized to it, at most to `max_size`: a map of 30 x 50 cells.
        max_size: of the long edge.
        attention: finds the foreground.
        least_cells: smaller regions are left out.
        connectivity: 4 or 8 neighbours make a region.
        count: boxes an image, at most; the largest regions.
    """

    def __init__(
        self,
        *,
        weights: str,
        level: str = "res4",
        short_edge: int = 480,
        max_size: int = 800,
        attention: EigenAttention | None = None,
        least_cells: int = 1,
        connectivity: int = 4,
        count: int = 30,
    ) -> None:
        self.weights, self.level = weights, level
        self.short_edge, self.max_size = short_edge, max_size
        self.attention = EigenAttention() if attention is None else attention
        self.least_cells, self.connectivity, self.count = least_cells, connectivity, count

    def __getstate__(self) -> dict[str, Any]:
        # A process that is started loads the weights itself: a file name is a small message.
        return {k: v for k, v in self.__dict__.items() if k != "network"}

    @cached_property
    def network(self) -> FrozenResNet:
        """Loaded when it is first needed, in each process."""
        network = load_resnet(self.weights)
        if self.level not in network.strides:
            raise UserError(
                f"EigenBoxes: level '{self.level}' is none of {', '.join(network.strides)}."
            )
        return network

    def __call__(
        self, record: Mapping[str, Any], pixels: np.ndarray, rng: np.random.Generator
    ) -> Found:
        """Largest region first, all with score 1; none where no foreground stands out."""
        height, width = pixels.shape[:2]
        factor = min(self.short_edge / min(height, width), self.max_size / max(height, width))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        image = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        maps = self.network(torch.from_numpy(image).permute(2, 0, 1)[None])
        foreground = self.attention(maps[self.level][0])
        if foreground is None:
            return nothing()
        stride = self.network.strides[self.level]
        mask = CellMask(foreground, cell=(stride, stride), size=(size[1], size[0]))
        boxes = region_boxes(mask, least_cells=self.least_cells, connectivity=self.connectivity)
        boxes = boxes[: self.count]
        return Found(boxes, np.ones(len(boxes), np.float32)).scaled(
            width / size[0], height / size[1]
        )
