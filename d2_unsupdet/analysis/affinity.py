"""Affinity of an object's cells in two views (DUPR, arXiv:2103.04814): ideally the identity.

Cells of view 2 (columns) choose among the cells of view 1 (rows): the softmax runs over rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from d2_unsupdet.analysis.plots import (
    COLOURS,
    axes_grid,
    bare,
    draw_box,
    show_image,
    styled,
)
from d2_unsupdet.analysis.samples import Features, Views, level_of
from d2_unsupdet.pretext.overlap import aligned_patches

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Affinity:
    """Of each pair of views.

    Args:
        matrices: (pairs, n, n), columns sum to 1.
        diagonal: (pairs,) mean of A_ii; 1 is ideal, 1 / n is chance.
        distance: (pairs,) expected distance of the chosen cell from the right one, in cells.
    """

    matrices: Tensor
    diagonal: Tensor
    distance: Tensor

    def to_json(self) -> dict[str, Any]:
        def told(values: Tensor) -> dict[str, Any]:
            spread = values.std(correction=0).item()
            return {"mean": round(values.mean().item(), 5), "std": round(spread, 5)}

        pairs = [
            {"diagonal_mass": round(d, 5), "distance": round(far, 5)}
            for d, far in zip(self.diagonal.tolist(), self.distance.tolist(), strict=True)
        ]
        both = {"diagonal_mass": told(self.diagonal), "distance": told(self.distance)}
        return {**both, "pairs": pairs}


def affinity(
    features: Features,
    pairs: Sequence[Views],
    *,
    level: str = "res5",
    size: int = 14,
    tau: float = 0.001,
    progress: bool = False,
) -> Affinity:
    """The affinity of the box's cells for every pair of views.

    Args:
        features: images to feature maps.
        pairs: views that show the box whole.
        level: which feature map.
        size: cells a side of RoIAlign.
        tau: temperature of the softmax.
        progress: whether to show a bar.
    """
    matrices = []
    for views in tqdm(pairs, desc="affinity", unit="pair", disable=not progress):
        feature = level_of(features(views.images), level)
        boxes, flipped = views.boxes.to(feature), views.flipped.to(feature.device)
        side = views.images.shape[-1]
        cells = aligned_patches(feature, boxes, flipped, size=size, side=side)
        matrices.append(affinity_matrix(*cells.flatten(2), tau=tau).cpu())
    stacked = torch.stack(matrices)
    away = (stacked * cell_distances(size)).sum(1).mean(1)
    return Affinity(stacked, stacked.diagonal(dim1=1, dim2=2).mean(1), away)


def affinity_matrix(first: Tensor, second: Tensor, *, tau: float) -> Tensor:
    """(n, n) from features (channels, n) of both views: softmax of cosines over the first's."""
    cosines = F.normalize(first.float(), dim=0).T @ F.normalize(second.float(), dim=0)
    return (cosines / tau).softmax(dim=0)


def cell_distances(size: int) -> Tensor:
    """(n, n) Euclidean distances of the cells of a size x size grid, in cells."""
    rows = torch.arange(size)
    centres = torch.cartesian_prod(rows, rows).float()
    return torch.cdist(centres, centres)


@styled
def draw(results: Mapping[str, Affinity], pairs: Sequence[Views], title: str) -> "Figure":
    """A row for each pair: both views with their box, then one matrix a checkpoint."""
    rows = len(pairs)
    size = (2.5 * (2 + len(results)) + 0.2, 2.75 * rows + 0.5)
    figure, axes = axes_grid(size, rows, 2 + len(results), title)
    for row, views in enumerate(pairs):
        for v in range(2):
            mark = ", mirrored" if views.flipped[v] else ""
            show_image(axes[row, v], views.images[v], f"view {v + 1}{mark}")
            draw_box(axes[row, v], views.boxes[v].tolist())
        for i, (label, result) in enumerate(results.items()):
            axis = axes[row, 2 + i]
            # the root shows weak entries too; each column sums to 1
            axis.imshow(result.matrices[row].sqrt(), cmap="magma", vmin=0, vmax=1)
            bare(axis)
            name = f"{label}\n" if row == 0 else ""
            told = f"diagonal {result.diagonal[row]:.2f}, off by {result.distance[row]:.1f} cells"
            axis.set_title(f"{name}{told}", color=COLOURS[i % len(COLOURS)], fontsize=8.5)
            if row == rows - 1:
                axis.set_xlabel("cell of view 2", fontsize=8)
            if i == 0:
                axis.set_ylabel("cell of view 1", fontsize=8)
    return figure
