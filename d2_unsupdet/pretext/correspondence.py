"""Which places of two views should agree: the studies of DenseSiam's supplement (arXiv:2203.11075).

Every rule gives places to read in both views and which pairs of them are positive, so that one loss
serves all (tables A1 and A2). Only what `dense_loss` reads carries gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from d2_unsupdet.errors import UserError, nearest
from d2_unsupdet.pretext.overlap import ViewGeometry, grid_points, sample_points, to_view
from d2_unsupdet.pretext.ranks import mean_over, own_rows, shared_draw
from d2_unsupdet.pretext.siamese import check_counts
from d2_unsupdet.pretext.similarity import Similarity


@dataclass(frozen=True)
class DenseView:
    """One view of every image of a batch, as maps (batch, channels, h, w).

    Args:
        geometry: where the views lie.
        features: of the backbone.
        target: the projector's output.
        prediction: the predictor's output.
    """

    geometry: ViewGeometry
    features: Tensor
    target: Tensor
    prediction: Tensor


@dataclass(frozen=True)
class Matches:
    """Places of a query view and of a key view, and which of them belong together.

    Args:
        query: (batch, n, 2) points or (batch, n, 4) XYXY boxes in the query view's pixels.
        key: (batch, m, 2) or (batch, m, 4) in the key view's pixels.
        positive: bool, (batch, n) where the first place is matched with the first and so on, or
            (batch, n, m).
        counts: (batch,) bool, the images that have something to compare.
    """

    query: Tensor
    key: Tensor
    positive: Tensor
    counts: Tensor


# Called for each direction with the query view, the key view and the similarity of the loss.
Correspondence = Callable[[DenseView, DenseView, Similarity], Matches]
# The same, but gives points (batch, n, 2) of the unit square over the shared part.
Sampler = Callable[[DenseView, DenseView, Similarity], Tensor]


def dense_loss(
    query: DenseView, key: DenseView, *, rule: Correspondence, measure: Similarity
) -> Tensor:
    """Minus the similarity of the query's predictions and the key's targets, which stay fixed.

    The mean over an image's positives, then over the images of all ranks that count.
    """
    matches = rule(query, key, measure)
    prediction = read(query.prediction, matches.query, side=query.geometry.side)
    target = read(key.target.detach(), matches.key, side=key.geometry.side)
    if matches.positive.dim() == 3:
        similar = measure.weighted(prediction, target, matches.positive)
    else:
        similar = measure(prediction, target) * matches.positive
    positives = matches.positive.flatten(1).sum(dim=1).clamp(min=1)
    return -mean_over(similar.sum(dim=1) / positives, matches.counts)


def read(feature: Tensor, places: Tensor, *, side: int) -> Tensor:
    """Values (batch, n, channels) of a map at points, or averaged over boxes by RoIAlign.

    At least in fp32: a coordinate of a 224-pixel view is off by up to half a pixel in bf16, and
    RoIAlign's image 257 would be image 256.
    """
    with torch.autocast(feature.device.type, enabled=False):
        feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
        if places.shape[-1] == 2:
            return sample_points(feature, places, side=side)
        images = torch.arange(len(places), device=places.device, dtype=feature.dtype)
        images = images[:, None, None].expand(-1, places.shape[1], 1)
        boxes = torch.cat([images, places.to(feature.dtype)], dim=-1).flatten(0, 1)  # (b * n, 5)
        scale = feature.shape[-1] / side
        return roi_align(feature, boxes, 1, scale, aligned=True).view(*places.shape[:2], -1)


@dataclass(frozen=True)
class Location:
    """The same place of the image: points of the part that both views show.

    Args:
        sampler: chooses the points.
    """

    sampler: Sampler

    @torch.no_grad()
    def __call__(self, query: DenseView, key: DenseView, measure: Similarity) -> Matches:
        points = self.sampler(query, key, measure)
        return Matches(
            query=to_view(points, query.geometry),
            key=to_view(points, key.geometry),
            positive=torch.ones_like(points[..., 0], dtype=torch.bool),
            counts=query.geometry.valid,
        )


@dataclass(frozen=True)
class RegularGrid:
    """Centres of size x size bins: the supplement's default with 7.

    Args:
        size: bins a side, at least 1.
    """

    size: int = 7

    def __post_init__(self) -> None:
        check_counts(grid=self.size)

    def __call__(self, query: DenseView, key: DenseView, measure: Similarity) -> Tensor:
        points = grid_points(self.size, device=query.features.device)
        return points.expand(len(query.features), -1, -1)


@dataclass(frozen=True)
class RandomPoints:
    """Uniform points, some of them chosen because the views disagree there (table A2).

    Of `oversample * count` candidates the `hard_share * count` least similar ones are kept, by the
    term of the loss itself; as many more are drawn as are missing.

    Args:
        count: points an image, the supplement's N.
        oversample: the supplement's k, at least 1.
        hard_share: the supplement's beta in [0, 1]; 0 is plain uniform sampling.
    """

    count: int = 49
    oversample: int = 1
    hard_share: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1 or self.oversample < 1 or not 0 <= self.hard_share <= 1:
            raise UserError(
                f"Points cannot be drawn with points={self.count}, oversample={self.oversample}, "
                f"hard_share={self.hard_share}: the first two must be at least 1, the last in "
                "[0, 1]."
            )

    def __call__(self, query: DenseView, key: DenseView, measure: Similarity) -> Tensor:
        hard = round(self.hard_share * self.count)
        candidates = self.oversample * self.count if hard else 0
        total = candidates + self.count - hard
        drawn = own_rows(shared_draw(len(query.features), 2 * total, query.features.device))
        points = drawn.view(len(drawn), total, 2)
        if not hard:
            return points
        tried = points[:, :candidates]
        prediction = read(
            query.prediction, to_view(tried, query.geometry), side=query.geometry.side
        )
        target = read(key.target, to_view(tried, key.geometry), side=key.geometry.side)
        least = measure(prediction, target).topk(hard, largest=False).indices
        kept = tried.gather(1, least[..., None].expand(-1, -1, 2))
        return torch.cat([kept, points[:, candidates:]], dim=1)


@dataclass(frozen=True)
class MostSimilar:
    """For each cell of the query view the key view's cell with the most similar backbone feature.

    DenseCL's rule (arXiv:2011.09157): no geometry, so that every pair counts.
    """

    @torch.no_grad()
    def __call__(self, query: DenseView, key: DenseView, measure: Similarity) -> Matches:
        mine, theirs = (_unit_rows(view.features) for view in (query, key))
        best = (mine @ theirs.transpose(1, 2)).argmax(dim=2)  # (batch, n)
        cells, others = (_cell_centres(view).expand(len(best), -1, -1) for view in (query, key))
        return Matches(
            query=cells,
            key=others.gather(1, best[..., None].expand(-1, -1, 2)),
            positive=torch.ones_like(best, dtype=torch.bool),
            counts=torch.ones_like(query.geometry.valid),
        )


@dataclass(frozen=True)
class NearbyCells:
    """All pairs of cells whose centres lie close together in the image.

    PixPro's rule (arXiv:2011.10043): closer than `threshold` diagonals of the larger cell.

    Args:
        threshold: above 0; 0.7 in PixPro's recipes.
    """

    threshold: float = 0.7

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise UserError(
                f"threshold is {self.threshold}; cells closer than that count as the same place, "
                "so it must be above 0."
            )

    @torch.no_grad()
    def __call__(self, query: DenseView, key: DenseView, measure: Similarity) -> Matches:
        cells, others = _cell_centres(query), _cell_centres(key)
        here, there = to_image(cells, query.geometry), to_image(others, key.geometry)
        distance = (here[:, :, None] - there[:, None]).norm(dim=-1)  # (batch, n, m)
        diagonal = torch.maximum(_cell_diagonal(query), _cell_diagonal(key))
        return Matches(
            query=cells.expand(len(here), -1, -1),
            key=others.expand(len(there), -1, -1),
            positive=distance / diagonal[:, None, None] < self.threshold,
            counts=query.geometry.valid,
        )


@dataclass(frozen=True)
class SlidingWindows:
    """Windows that slide over the query view, and where they lie in the key view.

    ReSim's rule (arXiv:2103.12902): a window that leaves the key view is ignored. The features of a
    window are averaged by RoIAlign.

    Args:
        size: of a window in pixels.
        stride: of the windows in pixels.
    """

    size: int = 48
    stride: int = 32

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1:
            raise UserError(
                f"Windows need a size and a stride of at least 1, not {self.size} and "
                f"{self.stride}."
            )

    @torch.no_grad()
    def __call__(self, query: DenseView, key: DenseView, measure: Similarity) -> Matches:
        side, device = query.geometry.side, query.features.device
        if self.size > side:
            raise UserError(
                f"A window of {self.size} pixels does not fit into a view of {side}; "
                "choose a smaller one."
            )
        start = torch.arange(0, side - self.size + 1, self.stride, device=device).float()
        y, x = torch.meshgrid(start, start, indexing="ij")
        corner = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
        ends = [
            from_image(to_image(point, query.geometry), key.geometry)
            for point in (corner, corner + self.size)
        ]
        # Mirroring swaps left and right.
        mapped = torch.cat([torch.minimum(*ends), torch.maximum(*ends)], dim=-1)
        windows = torch.cat([corner, corner + self.size], dim=-1).expand_as(mapped)
        # A rounding error is not an edge that leaves the view.
        inside = ((mapped > -1e-3) & (mapped < key.geometry.side + 1e-3)).all(dim=-1)
        return Matches(
            query=windows,
            key=torch.where(inside[..., None], mapped, windows),
            positive=inside,
            counts=query.geometry.valid & inside.any(dim=1),
        )


def correspondence(
    name: str = "location",
    *,
    sampling: str = "grid",
    grid: int = 7,
    points: int = 49,
    oversample: int = 1,
    hard_share: float = 0.0,
    threshold: float = 0.7,
    window: int = 48,
    stride: int = 32,
) -> Correspondence:
    """A rule by name, in plain values for a config; each reads only what concerns it.

    Args:
        name: "location", "feature" (DenseCL), "distance" (PixPro) or "region" (ReSim).
        sampling: of location, "grid" or "random".
        grid: bins a side of the grid.
        points: random points an image.
        oversample: candidates for each random point.
        hard_share: share of random points that are hard examples.
        threshold: of distance, in cell diagonals.
        window: of region, pixels a side.
        stride: of the windows in pixels.
    """
    if sampling == "grid" and (oversample != 1 or hard_share != 0):
        raise UserError(
            f"oversample={oversample} and hard_share={hard_share} choose among random points, but "
            "the sampling is 'grid'; set it to 'random'."
        )
    samplers: dict[str, Callable[[], Sampler]] = {
        "grid": lambda: RegularGrid(grid),
        "random": lambda: RandomPoints(points, oversample, hard_share),
    }
    rules: dict[str, Callable[[], Correspondence]] = {
        "location": lambda: Location(_choose("sampling", sampling, samplers)()),
        "feature": MostSimilar,
        "distance": lambda: NearbyCells(threshold),
        "region": lambda: SlidingWindows(window, stride),
    }
    return _choose("correspondence", name, rules)()


def to_image(points: Tensor, view: ViewGeometry) -> Tensor:
    """Points (batch or 1, n, 2) in a view's pixels to pixels of its image, (batch, n, 2)."""
    corner, scale = _frame(view)
    return corner + _mirrored(points, view) * scale


def from_image(points: Tensor, view: ViewGeometry) -> Tensor:
    """The inverse of `to_image`."""
    corner, scale = _frame(view)
    return _mirrored((points - corner) / scale, view)


def _frame(view: ViewGeometry) -> tuple[Tensor, Tensor]:
    """Each view's corner, and image pixels a view pixel, both (batch, 1, 2)."""
    corner, end = view.rectangles[:, None, :2], view.rectangles[:, None, 2:]
    return corner, (end - corner) / view.side


def _mirrored(points: Tensor, view: ViewGeometry) -> Tensor:
    x = torch.where(view.flipped[:, None], view.side - points[..., 0], points[..., 0])
    return torch.stack([x, points[..., 1].expand_as(x)], dim=-1)


def _cell_centres(view: DenseView) -> Tensor:
    """(1, h * w, 2) in the view's pixels, row by row; sampled there, a map gives its own values."""
    h, w = view.features.shape[-2:]
    x, y = (
        (torch.arange(n, device=view.features.device, dtype=torch.float32) + 0.5)
        * (view.geometry.side / n)
        for n in (w, h)
    )
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1).reshape(1, -1, 2)


def _cell_diagonal(view: DenseView) -> Tensor:
    """(batch,) in pixels of the image."""
    h, w = view.features.shape[-2:]
    _, scale = _frame(view.geometry)
    width, height = (scale[:, 0] * view.geometry.side).unbind(dim=-1)
    return torch.hypot(width / w, height / h)


def _unit_rows(feature: Tensor) -> Tensor:
    with torch.autocast(feature.device.type, enabled=False):
        rows = feature.to(torch.promote_types(feature.dtype, torch.float32)).flatten(2)
        return F.normalize(rows, dim=1).transpose(1, 2)  # (batch, h * w, channels)


def _choose(key: str, name: str, choices: dict[str, Callable[[], Any]]) -> Callable[[], Any]:
    if name not in choices:
        raise UserError(
            f"No {key} is named '{name}'; use one of {', '.join(choices)}.{nearest(name, choices)}"
        )
    return choices[name]
