"""Two-view matching (DUPR, arXiv:2103.04814): each patch's most similar patch in the other view.

The paper only draws the matches; we also measure them, since the crops say where they should be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from d2_unsupdet.analysis.plots import INK, axes_grid, bare, show_image, styled
from d2_unsupdet.analysis.samples import Features, Views, level_of
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.overlap import grid_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, WRONG = "#4cc9ff", "#ff8a1f"


@dataclass(frozen=True)
class Match:
    """Of one pair of views; the patches of view 1 are counted row by row.

    Args:
        chosen: (n,) the patch of view 2 with the highest cosine.
        truth: (n, 2) where the patch's centre lies in view 2, in cells.
        visible: (n,) whether that is inside view 2.
        error: (n,) distance of the chosen patch's centre from there, in cells.
        floor: (n,) the same of the best choice: centres seldom fall on centres.
        grid: patches a side.
    """

    chosen: Tensor
    truth: Tensor
    visible: Tensor
    error: Tensor
    floor: Tensor
    grid: int


@dataclass(frozen=True)
class Matching:
    """All pairs, and what their visible patches say together."""

    pairs: list[Match]

    @property
    def error(self) -> Tensor:
        return torch.cat([m.error[m.visible] for m in self.pairs])

    def to_json(self) -> dict[str, Any]:
        error = self.error
        floor = torch.cat([m.floor[m.visible] for m in self.pairs])
        return {
            "patches": len(error),
            "mean_error": round(error.mean().item(), 5),
            "median_error": round(error.median().item(), 5),
            "within_one_cell": round((error <= 1).float().mean().item(), 5),
            "least_possible_error": round(floor.mean().item(), 5),
        }


def matching(
    features: Features, pairs: Sequence[Views], *, level: str = "res4", progress: bool = False
) -> Matching:
    """Match every patch of view 1 and compare with the crops' geometry.

    Args:
        features: images to feature maps.
        pairs: of views.
        level: which feature map; its cells are the patches.
        progress: whether to show a bar.
    """
    found = []
    for views in tqdm(pairs, desc="matching", unit="pair", disable=not progress):
        first, second = level_of(features(views.images), level)
        found.append(_against_truth(best_patches(first, second).cpu(), views, first.shape[-1]))
    if not any(match.visible.any() for match in found):
        raise UserError("No patch is visible in both views of any pair; take more --images.")
    return Matching(found)


def best_patches(first: Tensor, second: Tensor) -> Tensor:
    """For each cell of `first` (channels, h, w), the cell of `second` with the highest cosine."""
    left, right = (F.normalize(x.flatten(1).float(), dim=0) for x in (first, second))
    return (left.T @ right).argmax(1)


def true_places(views: Views, grid: int) -> Tensor:
    """(grid * grid, 2) where the centres of view 1's cells lie in view 2, x first, in cells."""
    first, second = views.crops
    centres = grid_points(grid, device=torch.device("cpu")).double() * first.size
    places = second.apply_coords(first.inverse().apply_coords(centres.numpy()))
    return torch.from_numpy(places * (grid / second.size))


def _against_truth(chosen: Tensor, views: Views, grid: int) -> Match:
    truth = true_places(views, grid)
    centres = grid_points(grid, device=torch.device("cpu")).double() * grid
    visible = ((truth > 0) & (truth < grid)).all(1)
    nearest = truth.floor().clamp(0, grid - 1) + 0.5
    error = (centres[chosen] - truth).norm(dim=1)
    return Match(chosen, truth, visible, error, (nearest - truth).norm(dim=1), grid)


@styled
def draw(
    results: Mapping[str, Matching],
    pairs: Sequence[Views],
    title: str,
    *,
    shown: Sequence[int] = (0,),
    lines: int = 40,
) -> "Figure":
    """Both views of some pairs a checkpoint, lines from patches to their matches.

    A line is blue where it ends within a cell of the right place, orange elsewhere; patches that
    view 2 does not show are left out.
    """
    rows, columns = len(shown), len(results)
    size = (5.2 * columns + 0.2, 2.75 * rows + 0.6)
    figure, axes = axes_grid(size, rows, columns, title)
    for row, number in enumerate(shown):
        for column, (label, result) in enumerate(results.items()):
            axis = axes[row, column]
            _draw_pair(axis, pairs[number], result.pairs[number], lines)
            right = _share(result.pairs[number])
            axis.set_title(f"{label}: {right} within one cell" if row == 0 else right)
    return figure


def _draw_pair(axis: Any, views: Views, match: Match, lines: int) -> None:
    side = views.images.shape[-1]
    gap = side // 12
    blank = views.images.new_full((3, side, gap), 255)
    show_image(axis, torch.cat([views.images[0], blank, views.images[1]], dim=2))
    bare(axis)
    cell = side / match.grid
    centres = grid_points(match.grid, device=torch.device("cpu")).double().numpy() * side
    candidates = np.flatnonzero(match.visible.numpy())
    # a random choice, the same for each checkpoint: every n-th would fall into few columns
    for i in np.random.default_rng(0).permutation(candidates)[:lines]:
        x0, y0 = centres[i]
        x1, y1 = centres[match.chosen[i]]
        color = RIGHT if match.error[i] <= 1 else WRONG
        ends = ([x0, x1 + side + gap], [y0, y1])
        axis.plot(*ends, "-", color=INK, lw=1.9, alpha=0.45)
        axis.plot(*ends, "-", color=color, lw=1.0)
        axis.plot(*ends, "o", color=color, ms=max(2.0, min(cell / 6, 4)), mec=INK, mew=0.4)


def _share(match: Match) -> str:
    seen = match.error[match.visible]
    return f"{(seen <= 1).float().mean():.0%}" if len(seen) else "no patch"
