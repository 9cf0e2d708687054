"""DenseSiam: its losses against loops, the start of RegionSim, ranks, pairs without overlap."""

import math
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model

from d2_unsupdet.config import add_unsupdet_config
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.sync_batch_norm import resolve_sync_bn, use_sync_bn
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import drain_metrics
from d2_unsupdet.pretext import DenseSiam
from d2_unsupdet.pretext.correspondence import correspondence
from tests.pretext.test_correspondence import GRID, SIDE, bilinear, in_view, shared_point
from tests.pretext.test_correspondence import crops as crops_of
from tests.pretext.tiny import paired_batch, parameters, tiny_resnet
from tests.ranks import run_ranks

IMAGE, PIXEL, REGION = (f"loss_{part}_res5" for part in ("image", "pixel", "region"))
WEIGHTS = {"image_weight": 0.5, "pixel_weight": 2.0, "region_weight": 0.3}


def tiny_dense_siam(seed: int = 0, rule: dict | None = None, **changes) -> DenseSiam:
    torch.manual_seed(seed)
    settings = {
        **WEIGHTS,
        "correspondence": correspondence(**(rule or {"grid": 3})),
        "dim": 16,
        "pixel_dim": 12,
        "hidden": 8,
        "region_grid": 3,
        "region_start": 0.0,
        "regions": 5,
    }
    return DenseSiam(backbone=tiny_resnet(), **{**settings, **changes})


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


def train(model: DenseSiam, batches: list[list[dict]]) -> list[float]:
    optimizer, losses = sgd(model), []
    for step, batch in enumerate(batches):
        torch.manual_seed(step)
        model.progress = step / len(batches)
        optimizer.zero_grad()
        loss = sum(model(batch).values())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def batches() -> list[list[dict]]:
    batches = [paired_batch(5, seed, side=SIDE) for seed in range(4)]
    batches[0][2] |= {"valid": False, "overlap": torch.zeros(2, 4)}
    return batches


def softmax(values: torch.Tensor) -> torch.Tensor:
    return values.exp() / values.exp().sum()


@torch.no_grad()
def naive_losses(model: DenseSiam, batch: list[dict], regions: int | None) -> dict[str, float]:
    """One image, one point and one region at a time; only networks see a batch, for their BN."""
    images = torch.stack([s["views"] for s in batch]).double()
    images = (images - model.views.mean) / model.views.std
    maps = [model.backbone(images[:, v])["res5"] for v in range(2)]
    heads = {part: model.heads[part] for part in ("image", "pixel", "region")}

    z = [heads["image"].projector(x.mean((2, 3))) for x in maps]
    p = [heads["image"].predictor(x) for x in z]
    image = [
        float(torch.cosine_similarity(p[a][i], z[b][i], dim=0))
        for a, b in ((0, 1), (1, 0))
        for i in range(len(batch))
    ]

    z = [heads["pixel"].projector(x) for x in maps]
    p = [heads["pixel"].predictor(x) for x in z]
    places = [
        [[in_view(c, shared_point(s, *xy)) for xy in GRID] for c in crops_of(s)] for s in batch
    ]

    def values(feature: torch.Tensor, i: int, v: int) -> list[torch.Tensor]:
        return [bilinear(feature[i], x, y) for x, y in places[i][v]]

    kept = [i for i, s in enumerate(batch) if s["valid"]]
    pixel = [
        sum(float((softmax(b) * softmax(a).log()).sum()) for a, b in zip(*pair, strict=True)) / 9
        for i in kept
        for pair in (
            (values(p[0], i, 0), values(z[1], i, 1)),
            (values(p[1], i, 1), values(z[0], i, 0)),
        )
    ]
    return {
        IMAGE: -WEIGHTS["image_weight"] * sum(image) / len(image),
        PIXEL: -WEIGHTS["pixel_weight"] * sum(pixel) / len(pixel),
        REGION: WEIGHTS["region_weight"] * naive_regions(model, batch, maps, z, regions),
    }


@torch.no_grad()
def naive_regions(model, batch, maps, z, regions) -> float:
    sides = [[], []]
    for i, sample in enumerate(batch):
        masks, features = [], []
        for v, crop in enumerate(crops_of(sample)):
            if sample["valid"]:
                points = [in_view(crop, shared_point(sample, *xy)) for xy in GRID]
            else:  # takes part in the batch norm with the whole view, not in the loss
                points = [[SIDE * (1 - x if crop.flipped else x), SIDE * y] for x, y in GRID]
            masks.append([softmax(bilinear(z[v][i], x, y)) for x, y in points])
            features.append([bilinear(maps[v][i], x, y) for x, y in points])
        mass = [min(sum(float(m[k]) for m in view) for view in masks) for k in range(12)]
        chosen = sorted(range(12), key=lambda k: -mass[k])[: regions or 12]
        for v in range(2):
            for k in chosen:
                summed = sum(m[k] * f for m, f in zip(masks[v], features[v], strict=True))
                sides[v].append(summed)
    head = model.heads["region"]
    keys = [head.projector(torch.stack(rows)) for rows in sides]
    queries = [head.predictor(x) for x in keys]
    count = regions or 12
    losses = []
    for a, b in ((0, 1), (1, 0)):
        for i, sample in enumerate(batch):
            if sample["valid"]:
                q, k = (x[i * count : (i + 1) * count] for x in (queries[a], keys[b]))
                for n in range(count):
                    near = [
                        math.exp(float(torch.cosine_similarity(q[n], x, dim=0)) / 0.1) for x in k
                    ]
                    losses.append(-math.log(near[n] / sum(near)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("regions", [5, None])
def test_losses_equal_loops(regions, batches):
    model = tiny_dense_siam(regions=regions).double()
    losses = {name: loss.item() for name, loss in model(batches[0]).items()}
    assert losses == pytest.approx(naive_losses(model, batches[0], regions), rel=1e-5)


def test_a_part_without_weight_builds_no_head(batches):
    model = tiny_dense_siam(image_weight=0.0, region_weight=0.0)
    assert list(model.heads) == ["pixel"]
    assert list(model(batches[0])) == [PIXEL]
    assert list(tiny_dense_siam(region_weight=0).heads) == ["image", "pixel"]


def test_regions_start_late_but_take_part_in_every_step(batches):
    model = tiny_dense_siam(region_start=0.8, zero_init_last_norm=False)
    norm = model.heads["region"].projector[1]
    for progress, on in ((0.0, False), (0.79, False), (0.8, True)):
        model.progress = progress
        model.zero_grad()
        losses = model(batches[0])
        sum(losses.values()).backward()
        assert (losses[REGION].item() > 0) is on
        assert (int(norm.num_batches_tracked) > 0) is on  # off, it is not even computed
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert (p.grad.abs().sum() > 0).item() is (on or "region" not in name), name


@pytest.mark.parametrize("stopped", [False, True])
def test_keys_of_regions_carry_gradient_unless_told_otherwise(stopped):
    model = tiny_dense_siam(region_stop_gradient=stopped)
    query, key = torch.randn(2, 2, 5, 16).requires_grad_().unbind()
    key.retain_grad()
    query.retain_grad()
    model._contrast(query, key, torch.ones(2, dtype=torch.bool)).backward()
    assert query.grad.abs().sum() > 0
    assert (key.grad is None or not key.grad.any()) is stopped


def test_a_batch_without_any_overlap_trains_the_images(batches):
    model = tiny_dense_siam()
    lost = [{**s, "valid": False, "overlap": torch.zeros(2, 4)} for s in batches[0]]
    losses = model(lost)
    sum(losses.values()).backward()
    assert losses[PIXEL].item() == 0 == losses[REGION].item() and losses[IMAGE].item() != 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_losses_do_not_depend_on_the_order_of_the_batch(batches):
    model = tiny_dense_siam().double()
    shuffled = [batches[0][i] for i in (3, 0, 4, 1, 2)]
    losses = [{k: v.item() for k, v in model(b).items()} for b in (batches[0], shuffled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_both_views_play_the_same_part(batches):
    model = tiny_dense_siam().double()
    keys = ("views", "overlap", "flipped", "rectangles")
    swapped = [{**s, **{key: s[key].flip(0) for key in keys}} for s in batches[0]]
    losses = [{k: v.item() for k, v in model(b).items()} for b in (batches[0], swapped)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("name", ["location", "feature", "distance", "region"])
def test_bf16_is_close_to_fp32(name):
    found, batch = [], paired_batch(6, side=SIDE)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = tiny_dense_siam(rule={"name": name, "window": 16})(batch)
        sum(losses.values()).backward()
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found[0] == pytest.approx(found[1], rel=0.1, abs=0.03)


def test_categories_are_the_strongest_channels_in_eval_mode(batches):
    model = tiny_dense_siam()
    train(model, batches[:1])
    images = batches[1][0]["views"]
    running = model.backbone.stem.conv1.norm.running_mean.clone()
    found = model.categories(images)
    assert model.training and torch.equal(model.backbone.stem.conv1.norm.running_mean, running)
    model.eval()
    logits = model.heads["pixel"].projector(model.backbone(model.views(images))["res5"])
    assert torch.equal(found, logits.argmax(1)) and found.shape == (2, 2, 2)
    alone = torch.cat([model.categories(image[None]) for image in images])
    assert torch.equal(found, alone)
    with pytest.raises(UserError, match="no pixel part"):
        tiny_dense_siam(pixel_weight=0, region_weight=0).categories(images)


def test_metrics_and_export(batches):
    drain_metrics()
    model = tiny_dense_siam()
    model(batches[0])
    means = drain_metrics()
    parts = {f"{part}/feature_std" for part in ("image", "pixel", "region")}
    assert set(means) == parts | {"pixel/used_categories"}
    assert 1 <= means["pixel/used_categories"].item() <= 12
    assert means["pixel/feature_std"].item() == pytest.approx(1 / 12**0.5, rel=0.2)
    fresh = tiny_resnet()
    fresh.load_state_dict(model.export())


def test_state_dict_round_trip_continues_bit_for_bit(batches):
    rule = {"sampling": "random", "points": 8, "oversample": 3, "hard_share": 0.75}
    model = tiny_dense_siam(rule=rule)
    train(model, batches[:2])
    resumed = tiny_dense_siam(seed=1, rule=rule)
    resumed.load_state_dict(model.state_dict())
    assert train(model, batches[2:]) == train(resumed, batches[2:])
    assert torch.equal(parameters(model), parameters(resumed))


RULES = {
    "location": {"sampling": "random", "points": 8, "oversample": 3, "hard_share": 0.75},
    "region": {"name": "region", "window": 16, "stride": 16},
}


# Regions are off in the first of two steps, or never on.
RUNS = {
    "location": {"rule": RULES["location"], "region_start": 0.5},
    "region": {"rule": RULES["region"], "region_start": 0.5},
    "never": {"region_start": 1.0},
}


def uneven_batch(step: int) -> list[dict]:
    """All pairs without overlap are on the second rank; in the last step it has none with."""
    batch = paired_batch(8, step, side=SIDE)
    for sample in batch[4 if step else 5 :]:
        sample |= {"valid": False, "overlap": torch.zeros(2, 4)}
    return batch


def two_ranks(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for name, changes in RUNS.items():
        model = tiny_dense_siam(**changes)
        model = resolve_sync_bn(use_sync_bn(model.double()))
        parallel = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        optimizer = sgd(model)
        for step in range(2):
            # One process seeds with the step; the second rank has numbers of its own.
            torch.manual_seed(step + 100 * rank)
            model.progress = step / 2
            optimizer.zero_grad()
            sum(parallel(uneven_batch(step)[4 * rank :][:4]).values()).backward()
            optimizer.step()
        found[name] = model.state_dict()
    return found


@pytest.fixture(scope="module")
def both_ranks():
    return run_ranks(two_ranks)


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_equal_one_process_with_the_whole_batch(name, both_ranks):
    alone = tiny_dense_siam(**RUNS[name]).double()
    train(alone, [uneven_batch(step) for step in range(2)])
    for rank in both_ranks:
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(rank[name][key], value, rtol=1e-6, atol=1e-8, msg=key)


def test_regions_never_start_with_1(both_ranks, batches):
    model = tiny_dense_siam(region_start=1.0)
    model.progress = 1 - 1e-9
    assert model(batches[0])[REGION].item() == 0
    for rank in both_ranks:
        counts = {k: int(v) for k, v in rank["never"].items() if k.endswith("num_batches_tracked")}
        for name, count in counts.items():
            assert (count == 0) is ("heads.region" in name), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rule", [*RULES.values(), {"name": "feature"}, {"name": "distance"}])
def test_a_step_does_not_wait_for_the_gpu(rule, batches):
    model = tiny_dense_siam(rule=rule).cuda()
    sum(model(batches[0]).values()).backward()  # warms up cuDNN
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(model(batches[1]).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_weight": -1}, "must not be negative nor all 0"),
        ({"image_weight": 0, "pixel_weight": 0, "region_weight": 0}, "nor all 0"),
        ({"pixel_weight": 0}, "region_weight is 0.3 but pixel_weight is 0"),
        ({"region_start": 2}, "region_start is 2; .* in \\[0, 1\\]"),
        ({"region_start": float("nan")}, "region_start is nan"),
        ({"image_weight": float("nan")}, "must not be negative"),
        ({"region_temperature": 0}, "region_temperature is 0; .* must be above 0"),
        ({"region_temperature": -0.1}, "region_temperature is -0.1"),
        ({"region_grid": 0}, "region_grid is 0; it must be a whole number of at least 1"),
        ({"regions": 0}, "regions is 0; it must be a whole number of at least 1"),
        ({"regions": -3}, "regions is -3"),
        ({"dim": 0}, "dim is 0"),
        ({"pixel_dim": -1}, "pixel_dim is -1"),
        ({"pixel_dim": 12.5}, "pixel_dim is 12.5; it must be a whole number"),
        ({"hidden": 0}, "hidden is 0"),
        ({"collapse_threshold": -0.1}, "collapse_threshold is -0.1; .* not be negative"),
        ({"level": "res6"}, "no output 'res6'"),
    ],
)
def test_bad_settings_are_sentences(changes, message):
    with pytest.raises(UserError, match=message):
        tiny_dense_siam(**changes)


def test_a_single_image_is_a_sentence_where_batch_norm_compares_images():
    alone = paired_batch(1, side=SIDE)
    with pytest.raises(UserError, match="image head .* single row: .* at least two images"):
        tiny_dense_siam()(alone)
    with pytest.raises(UserError, match="region head .* single row"):
        tiny_dense_siam(image_weight=0, regions=1)(alone)
    losses = tiny_dense_siam(image_weight=0)(alone)  # cells and regions are enough rows
    assert set(losses) == {PIXEL, REGION} and all(x.isfinite() for x in losses.values())


def tiny_cfg():
    cfg = get_cfg()
    add_unsupdet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "DenseSiam", "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnet = cfg.MODEL.RESNETS
    resnet.DEPTH, resnet.RES2_OUT_CHANNELS, resnet.NORM = 18, 64, "BN"
    resnet.OUT_FEATURES = ["res5"]
    siam = cfg.MODEL.DENSE_SIAM
    siam.DIM, siam.PIXEL_DIM, siam.HIDDEN = 16, 12, 8
    return cfg


def test_yaml_config_builds_the_same_model():
    model = build_model(tiny_cfg())
    assert isinstance(model, DenseSiam) and model.region_start == 0.8
    assert model.weights == {"image": 1.0, "pixel": 1.0, "region": 0.1}
    model.load_state_dict(tiny_dense_siam().state_dict())


@pytest.mark.parametrize("regions, expected", [(0, None), (3, 3), (-3, "regions is -3")])
def test_yaml_says_all_regions_with_0(regions, expected):
    cfg = tiny_cfg()
    cfg.MODEL.DENSE_SIAM.REGIONS = regions
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            build_model(cfg)
    else:
        assert build_model(cfg).regions == expected


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/methods/dense_siam.md").read_text()
# What follows the paper's AP in a row of the tables.
ROWS = re.findall(r"^\| [^|]+ \| \d\d\.\d \| `(model\.[^`]+)`", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_supplement_is_an_override(row):
    words = []
    for word in row.split():
        prefix, _, braces = word.rstrip("}").partition("{")
        words += [prefix + part for part in braces.split(",")]
    recipe = load_config(str(ROOT / "configs/pretrain/dense_siam/imagenet_r50_200ep.py"), words)
    recipe.model.update(dim=8, pixel_dim=8, hidden=8)
    model = instantiate(recipe.model)
    assert model.weights.get("region") is None and ("pixel" in model.heads) == ("pixel" not in row)
    kinds = {"feature": "MostSimilar", "distance": "NearbyCells", "name=region": "SlidingWindows"}
    expected = next((kind for word, kind in kinds.items() if word in row), "Location")
    assert type(model.correspondence).__name__ == expected


def test_the_tables_have_all_rows():
    assert len(ROWS) == 9  # and the default, location with regions
