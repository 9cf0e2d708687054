"""Pseudo-categories of a dense method (DenseSiam, arXiv:2203.11075): each cell's winning channel.

Both views of an image side by side: a category that means something follows the object.
"""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from d2_unsupdet.analysis.matching import true_places
from d2_unsupdet.analysis.plots import COLOURS, axes_grid, show_image, styled
from d2_unsupdet.analysis.samples import Views
from d2_unsupdet.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Categorising(Protocol):
    """A model that puts every cell of an image into a category."""

    def categories(self, images: Tensor) -> Tensor:
        """uint8 RGB (batch, 3, H, W) -> (batch, h, w) long."""


@dataclass(frozen=True)
class Categories:
    """Of each pair of views.

    Args:
        maps: of every pair, (2, h, w) categories.
        agreement: share of the cells of view 1 visible in view 2 with the same category there.
        expected: what chance would give, from how often each category is used.
    """

    maps: list[Tensor]
    agreement: float
    expected: float

    @property
    def used(self) -> Tensor:
        """All categories that occur, the most frequent first."""
        values, counts = torch.cat([m.flatten() for m in self.maps]).unique(return_counts=True)
        return values[counts.argsort(descending=True, stable=True)]

    def to_json(self) -> dict[str, Any]:
        return {
            "categories_used": len(self.used),
            "agreement": round(self.agreement, 5),
            "agreement_by_chance": round(self.expected, 5),
        }


def categories(
    model: Categorising, pairs: Sequence[Views], *, progress: bool = False
) -> Categories:
    """Maps of every pair, and how far the two views agree where both show a place."""
    if not hasattr(model, "categories"):
        raise UserError(
            f"{type(model).__name__} has no pseudo-categories; this figure is for runs of "
            "DenseSiam and its segmentor."
        )
    device = next((p.device for p in getattr(model, "parameters", list)()), torch.device("cpu"))
    maps, first, second = [], [], []
    for views in tqdm(pairs, desc="categories", unit="pair", disable=not progress):
        with torch.no_grad():
            found = model.categories(views.images.to(device)).cpu()
        maps.append(found)
        a, b = shared_cells(found, views)
        first.append(a)
        second.append(b)
    a, b = torch.cat(first), torch.cat(second)
    if not len(a):
        raise UserError("No cell is visible in both views of any pair; take more --images.")
    size = int(max(a.max(), b.max())) + 1
    share_a, share_b = (torch.bincount(x, minlength=size).double() / len(a) for x in (a, b))
    return Categories(maps, (a == b).double().mean().item(), (share_a * share_b).sum().item())


def shared_cells(maps: Tensor, views: Views) -> tuple[Tensor, Tensor]:
    """Categories of view 1's cells that view 2 shows, and those at the same places in view 2."""
    grid = maps.shape[-1]
    places = true_places(views, grid)
    visible = ((places > 0) & (places < grid)).all(1)
    x, y = places[visible].floor().long().clamp(0, grid - 1).unbind(1)
    return maps[0].flatten()[visible], maps[1][y, x]


@styled
def draw(
    results: Mapping[str, Categories],
    pairs: Sequence[Views],
    title: str,
    *,
    shown: Sequence[int] = (0,),
) -> "Figure":
    """A row for each pair: its views, then both views' categories a checkpoint."""
    columns = 2 + 2 * len(results)
    size = (1.9 * columns + 0.2, 2.05 * len(shown) + 0.6)
    figure, axes = axes_grid(size, len(shown), columns, title)
    for row, number in enumerate(shown):
        views = pairs[number]
        for v in range(2):
            show_image(axes[row, v], views.images[v], f"view {v + 1}" if row == 0 else "")
        for i, (label, result) in enumerate(results.items()):
            colours = _colours(result.used)
            for v in range(2):
                # The label over the first view, the agreement of all pairs over the second.
                name = (label[-24:], f"{result.agreement:.0%} agree")[v] if row == 0 else ""
                axis = axes[row, 2 + 2 * i + v]
                tinted = colours[result.maps[number][v].numpy()]
                show_image(axis, tinted, name, COLOURS[i % len(COLOURS)])
    return figure


def _colours(used: Tensor) -> np.ndarray:
    """(greatest + 1, 3) uint8: frequent categories get hues far apart."""
    table = np.zeros((int(used.max()) + 1, 3), np.uint8)
    for rank, category in enumerate(used.tolist()):
        hue, light = (0.61803 * rank) % 1, (0.55, 0.4, 0.72)[rank // 5 % 3]
        table[category] = np.round(255 * np.array(colorsys.hls_to_rgb(hue, light, 0.65)))
    return table
