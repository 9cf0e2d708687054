"""Every rule of which places should agree, against loops over pixels, cells and windows."""

import math

import pytest
import torch
from torchvision.ops import roi_align

from d2_unsupdet.data.views import Crop
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext import correspondence as module
from d2_unsupdet.pretext.correspondence import (
    DenseView,
    correspondence,
    dense_loss,
    from_image,
    read,
    to_image,
)
from d2_unsupdet.pretext.overlap import view_geometry
from d2_unsupdet.pretext.similarity import similarity
from tests.pretext.tiny import paired_batch

SIDE, CELLS, CHANNELS = 64, 4, 6
CPU = torch.device("cpu")


def views_of(batch: list[dict], seed: int = 0) -> list[DenseView]:
    """Random maps instead of a network's."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, len(batch), CHANNELS, CELLS, CELLS, generator=generator).double()
    return [DenseView(g, *m) for g, m in zip(view_geometry(batch, CPU), maps, strict=True)]


@pytest.fixture(scope="module")
def batch() -> list[dict]:
    batch = paired_batch(12, seed=3, side=SIDE)
    batch[4] |= {"valid": False, "overlap": torch.zeros(2, 4)}
    flips = {tuple(s["flipped"].tolist()) for s in batch if s["valid"]}
    assert len(flips) == 4
    return batch


def crops(sample: dict) -> list[Crop]:
    """The geometry once more, from the code that cut the views."""
    return [
        Crop(200, 150, *(int(x) for x in rectangle), SIDE, bool(flipped))
        for rectangle, flipped in zip(sample["rectangles"], sample["flipped"], strict=True)
    ]


def bilinear(feature: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """The value of a map (channels, h, w) at a pixel of its view; edges are continued."""
    h, w = feature.shape[1:]
    col, row = (min(max(v * n / SIDE - 0.5, 0), n - 1) for v, n in ((x, w), (y, h)))
    left, top = min(int(col), w - 2), min(int(row), h - 2)
    a, b = col - left, row - top
    return (
        (1 - a) * (1 - b) * feature[:, top, left]
        + a * (1 - b) * feature[:, top, left + 1]
        + (1 - a) * b * feature[:, top + 1, left]
        + a * b * feature[:, top + 1, left + 1]
    )


def window_mean(feature: torch.Tensor, box: list[float]) -> torch.Tensor:
    """RoIAlign to one cell: the mean of evenly spread samples, about one for each feature cell."""
    xs, ys = (
        [low + (i + 0.5) * (high - low) / n for i in range(n)]
        for low, high in ((box[0], box[2]), (box[1], box[3]))
        for n in [math.ceil((high - low) * CELLS / SIDE)]
    )
    values = [bilinear(feature, x, y) for x in xs for y in ys]
    return torch.stack(values).mean(0)


def centre(index: int) -> tuple[float, float]:
    row, column = divmod(index, CELLS)
    return (column + 0.5) * SIDE / CELLS, (row + 0.5) * SIDE / CELLS


def cell(feature: torch.Tensor, index: int) -> torch.Tensor:
    return feature[:, index // CELLS, index % CELLS]


def compare(name: str, p: torch.Tensor, z: torch.Tensor) -> float:
    if name == "cosine":
        return float(p @ z / (p.norm() * z.norm()))
    return float((z.softmax(0) * p.log_softmax(0)).sum())


def in_view(crop: Crop, point: torch.Tensor) -> list[float]:
    return crop.apply_coords(point.double().numpy()[None])[0].tolist()


def shared_point(sample: dict, x: float, y: float) -> torch.Tensor:
    """A point of the unit square over the shared part, in pixels of the image."""
    a, b = (crop.rectangle for crop in crops(sample))
    low = torch.tensor([max(a[0], b[0]), max(a[1], b[1])]).double()
    high = torch.tensor([min(a[2], b[2]), min(a[3], b[3])]).double()
    return low + torch.tensor([x, y]).double() * (high - low)


def naive_location(sample, query, key, name, points):
    a, b = crops(sample)
    found = []
    for x, y in points:
        place = shared_point(sample, x, y)
        p, z = bilinear(query, *in_view(a, place)), bilinear(key, *in_view(b, place))
        found.append(compare(name, p, z))
    return found


def naive_feature(sample, query, key, name, features):
    found = []
    for i in range(CELLS**2):
        mine = cell(features[0], i)
        near = [
            float(torch.cosine_similarity(mine, cell(features[1], j), dim=0))
            for j in range(CELLS**2)
        ]
        best = near.index(max(near))
        found.append(compare(name, cell(query, i), cell(key, best)))
    return found


def naive_distance(sample, query, key, name, threshold):
    a, b = crops(sample)
    diagonal = max(math.hypot(c.width / CELLS, c.height / CELLS) for c in (a, b))
    found = []
    for i in range(CELLS**2):
        for j in range(CELLS**2):
            here, there = (c.inverse().apply_coords([centre(k)])[0] for c, k in ((a, i), (b, j)))
            if math.dist(here, there) / diagonal < threshold:
                found.append(compare(name, cell(query, i), cell(key, j)))
    return found


def naive_region(sample, query, key, name, size, stride):
    a, b = crops(sample)
    found = []
    for top in range(0, SIDE - size + 1, stride):
        for left in range(0, SIDE - size + 1, stride):
            window = [left, top, left + size, top + size]
            corners = b.apply_coords(a.inverse().apply_coords([window[:2], window[2:]]))
            (x0, x1), (y0, y1) = sorted(corners[:, 0]), sorted(corners[:, 1])
            if min(x0, y0) < 0 or max(x1, y1) > SIDE:
                continue
            p, z = window_mean(query, window), window_mean(key, [x0, y0, x1, y1])
            found.append(compare(name, p, z))
    return found


GRID = [((j + 0.5) / 3, (i + 0.5) / 3) for i in range(3) for j in range(3)]


@pytest.mark.parametrize("measure", ["cosine", "cross_entropy"])
@pytest.mark.parametrize("name", ["location", "feature", "distance", "region"])
def test_losses_equal_loops(name, measure, batch):
    first, second = views_of(batch)
    rule = correspondence(name, grid=3, threshold=0.9, window=16, stride=12)
    means = []
    for i, sample in enumerate(batch):
        if not sample["valid"] and name != "feature":  # DenseCL's rule knows no geometry
            continue
        query, key = first.prediction[i], second.target[i]
        found = {
            "location": lambda s, q, k: naive_location(s, q, k, measure, GRID),
            "feature": lambda s, q, k, i=i: naive_feature(
                s, q, k, measure, (first.features[i], second.features[i])
            ),
            "distance": lambda s, q, k: naive_distance(s, q, k, measure, 0.9),
            "region": lambda s, q, k: naive_region(s, q, k, measure, 16, 12),
        }[name](sample, query, key)
        if found:
            means.append(sum(found) / len(found))
        else:
            assert name == "region"
    loss = dense_loss(first, second, rule=rule, measure=similarity(measure))
    assert loss.item() == pytest.approx(-sum(means) / len(means), rel=1e-5)


@pytest.mark.parametrize("oversample, hard_share", [(1, 0.0), (3, 0.75), (10, 1.0)])
def test_hard_examples_are_the_least_similar_candidates(oversample, hard_share, batch):
    first, second = views_of(batch)
    count, hard = 8, int(hard_share * 8)
    rule = correspondence(
        sampling="random", points=count, oversample=oversample, hard_share=hard_share
    )
    torch.manual_seed(5)
    loss = dense_loss(first, second, rule=rule, measure=similarity("cosine"))
    torch.manual_seed(5)
    candidates = oversample * count if hard else 0
    drawn = torch.rand(len(batch), 2 * (candidates + count - hard)).view(len(batch), -1, 2)
    means = []
    for i, sample in enumerate(batch):
        if sample["valid"]:
            found = naive_location(
                sample, first.prediction[i], second.target[i], "cosine", drawn[i].tolist()
            )
            kept = sorted(found[:candidates])[:hard] + found[candidates:]
            assert len(kept) == count
            means.append(sum(kept) / count)
    assert loss.item() == pytest.approx(-sum(means) / len(means), rel=1e-5)


def twins(flipped: tuple[bool, bool], rectangle=(20.0, 10, 120, 110)) -> list[dict]:
    """Two views of the same square."""
    return [
        {
            "views": torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8),
            "overlap": torch.tensor([[0.0, 0, SIDE, SIDE]] * 2),
            "flipped": torch.tensor(flipped),
            "rectangles": torch.tensor([rectangle] * 2),
            "valid": True,
        }
    ]


@pytest.mark.parametrize("flipped", [(False, False), (True, False), (False, True), (True, True)])
def test_the_same_square_matches_itself(flipped):
    first, second = views_of(twins(flipped))
    mirrored = flipped[0] != flipped[1]
    features = first.features.flip(-1) if mirrored else first.features
    second = DenseView(second.geometry, features, second.target, second.prediction)
    order = torch.arange(CELLS**2).view(CELLS, CELLS)
    expected = (order.flip(-1) if mirrored else order).flatten()
    measure = similarity("cosine")

    by_distance = correspondence("distance")(first, second, measure).positive[0]
    # 0.7 of a square cell's diagonal is 0.99 of its side: only the cell itself.
    assert torch.equal(by_distance, torch.eye(CELLS**2).bool()[expected])
    nearby = correspondence("distance", threshold=0.71)(first, second, measure).positive[0]
    assert nearby.sum() == CELLS**2 + 4 * CELLS * (CELLS - 1)  # and its neighbours

    by_feature = correspondence("feature")(first, second, measure).key
    centres = torch.tensor([centre(int(i)) for i in expected])
    torch.testing.assert_close(by_feature[0], centres)

    windows = correspondence("region", window=32, stride=16)(first, second, measure)
    assert windows.positive.all() and windows.positive.shape == (1, 9)
    x0, y0, x1, y1 = windows.query.unbind(-1)
    place = torch.stack([SIDE - x1, y0, SIDE - x0, y1], -1) if mirrored else windows.query
    torch.testing.assert_close(windows.key, place)


def test_views_that_share_nothing_count_only_without_geometry(batch):
    nothing = [{**s, "valid": False, "overlap": torch.zeros(2, 4)} for s in batch]
    first, second = views_of(nothing)
    for name in ("location", "distance", "region"):
        rule = correspondence(name, window=16)
        loss = dense_loss(first, second, rule=rule, measure=similarity("cosine"))
        assert loss.item() == 0, name


@pytest.mark.parametrize("name", ["location", "feature", "distance", "region"])
def test_gradient_reaches_the_prediction_only(name, batch):
    first, second = views_of(batch)
    leaves = [x.requires_grad_() for v in (first, second) for x in (v.features, v.target)]
    for view in (first, second):
        view.prediction.requires_grad_()
    rule = correspondence(name, sampling="random", oversample=3, hard_share=0.5, window=16)
    dense_loss(first, second, rule=rule, measure=similarity("cross_entropy")).backward()
    assert first.prediction.grad.abs().sum() > 0
    assert second.prediction.grad is None and all(x.grad is None for x in leaves)


def test_image_pixels_there_and_back(batch):
    geometry = view_geometry(batch, CPU)
    points = torch.rand(1, 5, 2) * SIDE
    for v, view in enumerate(geometry):
        placed = to_image(points, view)
        for sample, row in zip(batch, placed, strict=True):
            expected = crops(sample)[v].inverse().apply_coords(points[0].numpy())
            torch.testing.assert_close(row.double(), torch.from_numpy(expected), atol=1e-4, rtol=0)
        torch.testing.assert_close(from_image(placed, view), points.expand_as(placed))


def test_places_are_read_in_fp32_under_autocast():
    feature, points = torch.randn(2, 3, 7, 7).bfloat16(), torch.rand(2, 9, 2) * 224
    boxes = torch.cat([points * 0.4, points * 0.4 + 60], -1)
    for places in (points, boxes):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = read(feature, places, side=224)
        assert found.dtype == torch.float32 and found.shape == (2, 9, 3)
        torch.testing.assert_close(found, read(feature.float(), places, side=224))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_boxes_of_many_images_are_read_without_a_loop_over_them(dtype, monkeypatch):
    """A column's number and its image's, in values that bf16 can hold."""
    count, cells = 300, 14
    columns = torch.arange(cells).expand(count, cells, cells)
    numbers = torch.arange(count)[:, None, None].expand_as(columns)
    feature = torch.stack([columns, numbers // 16, numbers % 16], dim=1).to(dtype)
    centres = torch.tensor([16.2, 203.4])  # in bf16 16.25 and 203
    boxes = torch.stack([centres - 8, centres - 8, centres + 8, centres + 8], -1)
    seen = []

    def spy(x: torch.Tensor, boxes: torch.Tensor, *args, **options) -> torch.Tensor:
        seen.append(boxes)
        return roi_align(x, boxes, *args, **options)

    monkeypatch.setattr(module, "roi_align", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = read(feature, boxes.expand(count, -1, -1), side=224)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found[..., 0], (centres / 16 - 0.5).to(found).expand(count, 2))
    assert (16 * found[..., 1] + found[..., 2]).round().tolist() == [[i, i] for i in range(count)]
    (rois,) = seen  # one tensor, not a list with an entry an image
    assert rois.shape == (2 * count, 5) and rois.dtype == found.dtype


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"name": "locaton"}, "No correspondence is named 'locaton'.*Did you mean 'location'"),
        ({"sampling": "hard"}, "No sampling is named 'hard'; use one of grid, random"),
        ({"sampling": "random", "hard_share": 1.5}, "hard_share=1.5.*in \\[0, 1\\]"),
        ({"name": "region", "stride": 0}, "at least 1, not 48 and 0"),
        ({"grid": 0}, "grid is 0; it must be a whole number of at least 1"),
        ({"name": "distance", "threshold": 0}, "threshold is 0; .* must be above 0"),
        ({"name": "distance", "threshold": -0.7}, "threshold is -0.7"),
    ],
)
def test_bad_settings_are_sentences(settings, message):
    with pytest.raises(UserError, match=message):
        correspondence(**settings)


def test_a_window_larger_than_the_view_is_a_sentence(batch):
    first, second = views_of(batch)
    with pytest.raises(UserError, match="window of 65 pixels does not fit into a view of 64"):
        correspondence("region", window=65)(first, second, similarity("cosine"))


def test_hard_examples_without_random_points_are_a_sentence():
    for settings in ({"hard_share": 0.75}, {"name": "feature", "oversample": 3}):
        with pytest.raises(UserError, match="choose among random points, but the sampling is"):
            correspondence(**settings)
