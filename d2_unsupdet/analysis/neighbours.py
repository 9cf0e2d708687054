"""Nearest neighbours by dense features: the whole map of a level as one vector, so place counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from d2_unsupdet.analysis.plots import COLOURS, axes_grid, bare, show_image, styled
from d2_unsupdet.analysis.samples import Features, Sample, batches, level_of, stack

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Neighbours:
    """For each query, the images most like it, best first.

    Args:
        queries: their indices among the images.
        indices: (queries, k).
        similarities: (queries, k) cosines.
    """

    queries: list[int]
    indices: Tensor
    similarities: Tensor

    def to_json(self, samples: Sequence[Sample]) -> dict[str, Any]:
        found = []
        for query, row, values in zip(self.queries, self.indices, self.similarities, strict=True):
            each = zip(row.tolist(), values.tolist(), strict=True)
            near = [{"image": _name(samples[i]), "similarity": round(s, 5)} for i, s in each]
            found.append({"query": _name(samples[query]), "neighbours": near})
        mean = self.similarities.mean().item()
        return {"mean_similarity": round(mean, 5), "queries": found}


def neighbours(
    features: Features,
    samples: Sequence[Sample],
    *,
    queries: int = 6,
    k: int = 4,
    level: str = "res5",
    side: int = 224,
    batch: int = 32,
    progress: bool = False,
) -> Neighbours:
    """The k nearest of all other samples to each of the first `queries`.

    Only the queries' vectors are kept (of a ResNet-50, 100,352 values each); the rest passes by.

    Args:
        features: images to feature maps.
        samples: the images.
        queries: how many of them are asked for.
        k: neighbours of each.
        level: which feature map.
        side: to which the images are stretched.
        batch: images at a time.
        progress: whether to show a bar.
    """
    count = min(queries, len(samples))

    def embed(part: Sequence[Sample]) -> Tensor:
        maps = level_of(features(stack(part, side)[0]), level)
        return F.normalize(maps.flatten(1).float(), dim=1)

    asked = torch.cat([embed(part) for part in batches(samples[:count], batch)])
    parts = list(batches(samples, batch))
    bar = tqdm(parts, desc="neighbours", unit="batch", disable=not progress)
    cosines = torch.cat([(asked @ embed(part).T).cpu() for part in bar], dim=1)
    cosines[torch.arange(count), torch.arange(count)] = -torch.inf  # not the query itself
    values, indices = cosines.topk(min(k, len(samples) - 1), dim=1)
    return Neighbours(list(range(count)), indices, values)


@styled
def draw(results: Mapping[str, Neighbours], samples: Sequence[Sample], title: str) -> "Figure":
    """Queries on the left; beside each, one block of neighbours a checkpoint."""
    first = next(iter(results.values()))
    rows, k = first.indices.shape
    gap = 0.18
    widths = [1.0, *([gap] + [1.0] * k) * len(results)]
    size = (1.15 * sum(widths) + 0.2, 1.3 * rows + 0.7)
    figure, axes = axes_grid(size, rows, len(widths), title, gridspec_kw={"width_ratios": widths})
    for axis in axes.flat:
        bare(axis)
    for row, query in enumerate(first.queries):
        show_image(axes[row, 0], samples[query].pixels, "query" if row == 0 else "")
        for block, result in enumerate(results.values()):
            for place in range(k):
                axis = axes[row, 2 + block * (k + 1) + place]
                index = int(result.indices[row, place])
                show_image(axis, samples[index].pixels)
                axis.set_xlabel(f"{result.similarities[row, place]:.2f}", fontsize=8, labelpad=1)
    for block, label in enumerate(results):
        color = COLOURS[block % len(COLOURS)]
        axes[0, 2 + block * (k + 1)].set_title(label, loc="left", color=color, fontweight="bold")
    return figure


def _name(sample: Sample) -> str:
    return Path(sample.name).name
