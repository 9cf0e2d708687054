"""Spatial sensitivity of features (DUPR, arXiv:2103.04814): similarity of regions against IoU.

A region's features should differ from those of the object the more, the less the two overlap. The
paper names neither the RoI size nor how regions are made; see docs/analysis.md for our choices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, roi_align
from tqdm import tqdm

from d2_unsupdet.analysis.plots import COLOURS, axes_grid, styled
from d2_unsupdet.analysis.samples import Features, Sample, batches, level_of, stack
from d2_unsupdet.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CANDIDATES = 4000
_SHIFT, _SCALE = 1.5, 2.0  # of a region against the box, in its sides, at most
_LEAST_SIDE = 1 / 8  # of a region, in sides of the box


@dataclass(frozen=True)
class Sensitivity:
    """Similarities by bins of IoU; NaN where a bin is empty.

    Args:
        edges: of the bins, one more than bins.
        mean: similarity in each bin.
        std: its spread over images.
        count: regions in each bin.
        slope: of the least-squares line through all (IoU, similarity).
        intercept: of that line.
    """

    edges: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    count: np.ndarray
    slope: float
    intercept: float

    def to_json(self) -> dict[str, Any]:
        rounded = {k: [_number(v) for v in getattr(self, k)] for k in ("edges", "mean", "std")}
        line = {"slope": _number(self.slope), "intercept": _number(self.intercept)}
        return {**line, **rounded, "count": self.count.tolist()}


def sensitivity(
    features: Features,
    samples: Sequence[Sample],
    *,
    level: str = "res4",
    side: int = 224,
    roi_size: int = 7,
    bins: int = 20,
    seed: int = 0,
    batch: int = 16,
    progress: bool = False,
) -> Sensitivity:
    """Mean cosine of RoI cells against the box's own, over images, by bins of IoU.

    Args:
        features: images to feature maps.
        samples: images with a box.
        level: which feature map.
        side: to which the images are stretched.
        roi_size: cells a side of RoIAlign.
        bins: of IoU in [0, 1], one region an image in each.
        seed: of the regions.
        batch: images at a time.
        progress: whether to show a bar.
    """
    overlaps, similarities = [], []
    parts = list(batches(range(len(samples)), batch))
    for part in tqdm(parts, desc="sensitivity", unit="batch", disable=not progress):
        images, boxes = stack([samples[i] for i in part], side)
        regions = torch.stack(
            [
                jittered_regions(box, side, bins=bins, rng=np.random.default_rng([seed, 3, i]))
                for i, box in zip(part, boxes, strict=True)
            ]
        )
        feature = level_of(features(images), level)
        overlaps.append(_ious(boxes, regions))
        similarities.append(
            region_similarity(feature, boxes, regions, side=side, size=roi_size).cpu()
        )
    return summarise(torch.cat(overlaps), torch.cat(similarities), bins)


def jittered_regions(box: Tensor, side: int, *, bins: int, rng: np.random.Generator) -> Tensor:
    """One region (bins, 4) in each bin of IoU with `box`; NaN where none was found.

    Candidates are the box shifted, scaled and cut at the image's border, more or less strongly. In
    each bin an IoU is drawn, and the candidate nearest to it taken if it lies in the bin.
    """
    u = torch.from_numpy(rng.random((_CANDIDATES, 5))).float()
    target = (torch.arange(bins) + torch.from_numpy(rng.random(bins)).float()) / bins
    extent, centre = box[2:] - box[:2], (box[:2] + box[2:]) / 2
    strength = u[:, :1] ** 2  # half of the candidates differ little: without them high bins starve
    middle = centre + _SHIFT * strength * (2 * u[:, 1:3] - 1) * extent
    sides = extent * _SCALE ** (strength * (2 * u[:, 3:] - 1))
    regions = torch.cat([middle - sides / 2, middle + sides / 2], dim=1).clamp(0, side)
    regions = regions[(regions[:, 2:] - regions[:, :2] >= _LEAST_SIDE * extent).all(1)]
    iou = box_iou(box[None], regions)[0]
    nearest = (iou - target[:, None]).abs().argmin(1)
    inside = (iou[nearest] * bins).long().clamp(max=bins - 1) == torch.arange(bins)
    return regions[nearest].masked_fill(~inside[:, None], torch.nan)


def region_similarity(
    feature: Tensor, boxes: Tensor, regions: Tensor, *, side: int, size: int
) -> Tensor:
    """(batch, bins) mean cosine over the size x size cells of each region and of its box."""
    count, bins = regions.shape[:2]
    rows = torch.arange(count, device=feature.device, dtype=feature.dtype)

    def pooled(xyxy: Tensor, each: int) -> Tensor:
        rois = torch.cat(
            [rows.repeat_interleave(each)[:, None], xyxy.reshape(-1, 4).to(feature)], dim=1
        )
        return roi_align(feature, rois, size, feature.shape[-1] / side, aligned=True)

    query = F.normalize(pooled(boxes, 1), dim=1)[:, None]  # (batch, 1, C, S, S)
    keys = F.normalize(pooled(regions.nan_to_num(), bins), dim=1)
    keys = keys.unflatten(0, (count, bins))
    similarity = (query * keys).sum(2).mean((-2, -1))
    return similarity.masked_fill(regions.isnan().any(-1).to(similarity.device), torch.nan)


def summarise(overlaps: Tensor, similarities: Tensor, bins: int) -> Sensitivity:
    """Statistics of all pairs (images, bins); NaN pairs are left out."""
    iou, value = (t.double().numpy() for t in (overlaps, similarities))
    there = ~np.isnan(value)
    if there.sum() < 2:
        raise UserError("No regions were found around the boxes; take more --images.")
    slope, intercept = np.polyfit(iou[there], value[there], 1)
    columns = [value[there[:, k], k] for k in range(bins)]
    mean = np.array([c.mean() if len(c) else np.nan for c in columns])
    std = np.array([c.std() if len(c) else np.nan for c in columns])
    count = np.array([len(c) for c in columns])
    edges = np.linspace(0, 1, bins + 1)
    return Sensitivity(edges, mean, std, count, float(slope), float(intercept))


@styled
def draw(results: Mapping[str, Sensitivity], title: str) -> "Figure":
    """One curve a checkpoint: mean similarity by IoU, its spread, its slope in the legend."""
    figure, axes = axes_grid((6.4, 4.4), 1, 1)
    axis = axes[0, 0]
    for i, (label, result) in enumerate(results.items()):
        color = COLOURS[i % len(COLOURS)]
        centre = (result.edges[1:] + result.edges[:-1]) / 2
        low, high = result.mean - result.std, np.minimum(result.mean + result.std, 1)
        axis.fill_between(centre, low, high, color=color, alpha=0.13, lw=0)
        name = f"{label}  (slope {result.slope:.2f})"
        axis.plot(centre, result.mean, "o-", color=color, ms=3.5, lw=1.8, label=name)
    axis.set_xlim(0, 1)
    axis.set_xlabel("IoU of region and object")
    axis.set_ylabel("mean cosine similarity")
    axis.grid(color="#dfe3ea", lw=0.7)
    axis.set_axisbelow(True)
    axis.legend(loc="best")
    axis.set_title(title, loc="left")
    return figure


def _ious(boxes: Tensor, regions: Tensor) -> Tensor:
    return torch.stack([box_iou(b[None], r)[0] for b, r in zip(boxes, regions, strict=True)])


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 5)
