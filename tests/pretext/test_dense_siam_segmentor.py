"""Losses equal the official ones, views correspond cell by cell, ranks agree, eval gives maps."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch.nn.parallel import DistributedDataParallel

from d2_unsupdet.engine.sync_batch_norm import resolve_sync_bn, use_sync_bn
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import drain_metrics
from d2_unsupdet.parity.rule import values
from d2_unsupdet.pretext import DenseSiamSegmentor
from d2_unsupdet.pretext.dense_siam_segmentor import replay
from d2_unsupdet.pretext.overlap import ViewGeometry
from tests.pretext.tiny import parameters, tiny_resnet
from tests.ranks import run_ranks

GOLDEN = Path(__file__).parents[1] / "golden"


def tiny(seed: int = 0, **changes) -> DenseSiamSegmentor:
    torch.manual_seed(seed)
    settings = {"num_classes": 5, "aux_classes": 7, "channels": 16}
    return DenseSiamSegmentor(backbone=tiny_resnet(), **{**settings, **changes})


def batch_of(size: int, seed: int = 0, side: int = 32) -> list[dict]:
    """What ReplayedViewMapper makes, of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(size):
        extent = rng.uniform(0.5, 1) * side
        left, top = rng.uniform(0, side - extent, 2)
        box = [left, top, left + extent, top + extent]
        samples.append(
            {
                "views": torch.randint(
                    0, 256, (2, 3, side, side), generator=generator, dtype=torch.uint8
                ),
                "overlap": torch.tensor([[0, 0, side, side], box]).float(),
                "flipped": torch.tensor([rng.random() < 0.5, False]),
                "rectangles": torch.tensor([box, [0, 0, side, side]]).float(),
                "valid": True,
                "image_id": i,
            }
        )
    return samples


def geometry(boxes, flipped, side: int) -> list[ViewGeometry]:
    count = len(boxes)
    valid = torch.ones(count, dtype=torch.bool)
    whole = torch.tensor([[0.0, 0, side, side]]).expand(count, -1)
    boxes, nowhere = torch.tensor(boxes).float(), torch.zeros(count, 4)
    first = ViewGeometry(whole, torch.tensor(flipped), valid, nowhere, side)
    return [first, ViewGeometry(boxes, torch.zeros(count).bool(), valid, nowhere, side)]


# ---- the official numbers


def official() -> tuple[DenseSiamSegmentor, dict[str, torch.Tensor]]:
    manifest = json.loads((GOLDEN / "op_densesiam.json").read_text())
    state = {
        key.replace("kernel_", "region_"): torch.from_numpy(values(key, entry["shape"]))
        for key, entry in manifest["state_dict"].items()
        if entry["dtype"] == "float32"
    }
    model = DenseSiamSegmentor(backbone=tiny_resnet(), num_classes=27, aux_classes=128)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    heads = [k for k in missing if "jector" in k or "dictor" in k]
    assert all(key.endswith("num_batches_tracked") for key in heads)
    with np.load(GOLDEN / "op_densesiam.npz") as arrays:
        return model, {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def test_losses_and_gradients_are_the_official_ones():
    model, golden = official()
    model.progress = 0.9
    feats = [golden[f"feats{v}"].requires_grad_() for v in (1, 2)]
    losses = model.losses(*feats)
    names = {"pixel": "simsiam", "aux": "aux", "seg": "seg", "region": "kernel_cross"}
    assert set(losses) == {f"loss_{name}" for name in names}
    for ours, theirs in names.items():
        expected = golden[f"loss.loss_{theirs}"]
        torch.testing.assert_close(losses[f"loss_{ours}"], expected, rtol=1e-4, atol=0, msg=ours)
    sum(losses.values()).backward()
    for v in (1, 2):
        gradient, expected = feats[v - 1].grad, golden[f"grad_feats{v}"]
        scale = expected.abs().max().item()
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5 * scale)


def test_heads_give_the_official_outputs():
    model, golden = official()
    for v in (1, 2):
        target = model.projector(golden[f"feats{v}"])
        torch.testing.assert_close(target, golden[f"out.projector{v}"], rtol=1e-4, atol=1e-5)
        prediction = model.predictor(target)
        torch.testing.assert_close(prediction, golden[f"out.predictor{v}"], rtol=1e-4, atol=1e-5)


# ---- parts of the loss


def test_automatic_weights_are_logarithms():
    model = tiny(num_classes=27, aux_classes=128)
    assert model.weights["pixel"] == pytest.approx(0.5955, abs=5e-5)
    assert model.weights["aux"] == pytest.approx(0.4045, abs=5e-5)
    assert tiny(pixel_weight=2, aux_weight=0).weights["pixel"] == 2


def test_self_labelling_equals_a_loop_with_and_without_rebalance():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3, 4).double() * 2
    labels = logits.argmax(1)
    share = [(labels == k).double().mean() for k in range(5)]
    plain, weighted = 0.0, 0.0
    for b in range(2):
        for y in range(3):
            for x in range(4):
                z = logits[b, :, y, x]
                k = int(z.argmax())
                ce = float(-math.log(math.exp(z[k]) / sum(math.exp(v) for v in z)))
                plain += ce / 24
                weighted += ce * float(share[k]) / 24
    assert float(tiny(rebalance=False)._self_labelling(logits)) == pytest.approx(plain)
    assert float(tiny(rebalance=True)._self_labelling(logits)) == pytest.approx(weighted)


def test_regions_wait_but_every_parameter_gets_a_gradient():
    model, batch = tiny(), batch_of(2)
    for progress, works in ((0.0, False), (0.79, False), (0.8, True)):
        model.zero_grad()
        model.progress = progress
        losses = model(batch)
        assert (losses["loss_region"] > 0) == works
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.parameters())
        gradient = model.region_projector[0].weight.grad.abs().sum()
        assert (gradient > 0) == works
        before = model.region_projector[1].running_mean.abs().sum() > 0
        assert before == works  # not even its statistics move


def test_the_target_of_a_pixel_gets_no_gradient():
    model = tiny(seg_weight=0, region_weight=0, aux_weight=0, pixel_weight=1)
    first = torch.randn(2, 16, 4, 4, requires_grad=True)
    second = torch.randn(2, 16, 4, 4, requires_grad=True)
    model.losses(first, second)["loss_pixel"].backward()
    assert first.grad.abs().sum() > 0 and second.grad.abs().sum() > 0
    model.predictor.requires_grad_(False)
    first.grad = second.grad = None
    with torch.no_grad():
        model.predictor[3].weight.zero_()  # predictions are constants now
    model.losses(first, second)["loss_pixel"].backward()
    assert first.grad.abs().sum() == 0 and second.grad.abs().sum() == 0


# ---- the geometry


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 16, 16), (3, 5, 12, 14), (8, 0, 16, 8), (1, 2, 14, 15)])
def test_replay_equals_slicing_and_resizing_on_whole_cells(box, flipped):
    feature = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    left, top, right, bottom = box
    expected = F.interpolate(
        feature[:, :, top:bottom, left:right],
        size=(16, 16),
        mode="bilinear",
        align_corners=False,
    )
    expected = expected.flip(-1) if flipped else expected
    pixels = [[4.0 * edge for edge in box]]
    ours = replay(feature, *geometry(pixels, [flipped], side=64))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_replay_of_a_batch_is_replay_of_each():
    feature = torch.randn(3, 2, 8, 8)
    boxes = [[0.0, 0, 32, 32], [3.3, 4.1, 20.9, 21.7], [16.0, 0, 32, 16]]
    flipped = [True, False, True]
    together = replay(feature, *geometry(boxes, flipped, 32))
    for i in range(3):
        alone = replay(feature[i : i + 1], *geometry([boxes[i]], [flipped[i]], 32))
        torch.testing.assert_close(together[i : i + 1], alone)


def test_coordinates_arrive_where_the_image_has_them():
    """A map of its own place, cropped between cells: linear inside, off by the border alone."""
    cells, side = 16, 64
    place = (torch.arange(cells) + 0.5) * side / cells
    feature = torch.stack(torch.meshgrid(place, place, indexing="xy"))[None].double()
    box = [[10.0, 7.0, 51.0, 48.0]]
    first, second = geometry(box, [True], side)
    ours = replay(feature, first, second)[0]
    u = (torch.arange(cells).double() + 0.5) / cells
    inner = slice(1, -1)
    expected_x = 10 + (1 - u) * 41
    expected_y = 7 + u * 41
    rows = ours[1, :, 3]
    torch.testing.assert_close(ours[0, 3, inner], expected_x[inner])
    torch.testing.assert_close(rows[inner], expected_y[inner])


# ---- ranks, precision, evaluation, export


def train(model, batches, progress=(0.0, 0.9)) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    inner = getattr(model, "module", model)
    for number, batch in enumerate(batches):
        inner.progress = progress[number % len(progress)]
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()


STARTS = (0.8, 1.0)  # with 1, regions are never on


def two_ranks(rank: int) -> dict[float, dict]:
    found = {}
    for start in STARTS:
        model = tiny(region_start=start).double()
        model = DistributedDataParallel(resolve_sync_bn(use_sync_bn(model)))
        train(model, [batch_of(4, step)[2 * rank : 2 * rank + 2] for step in range(3)])
        found[start] = model.module.state_dict()
    return found


@pytest.fixture(scope="module")
def both_ranks():
    return run_ranks(two_ranks)


@pytest.mark.parametrize("start", STARTS)
def test_two_ranks_equal_one_process_with_the_whole_batch(start, both_ranks):
    alone = tiny(region_start=start).double()
    train(alone, [batch_of(4, step) for step in range(3)])
    for rank in both_ranks:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(rank[start][name], value, rtol=1e-6, atol=1e-8, msg=name)


def test_regions_never_start_with_1(both_ranks):
    model = tiny(region_start=1.0)
    model.progress = 1 - 1e-9
    assert model(batch_of(2))["loss_region"].item() == 0
    for rank in both_ranks:
        steps = [int(rank[s]["region_projector.1.num_batches_tracked"]) for s in STARTS]
        assert steps == [2, 0]  # both views of one step of three, and of none


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_does_not_wait_for_the_gpu():
    model = tiny().cuda()
    model.progress = 0.9  # regions are on
    sum(model(batch_of(2)).values()).backward()  # warms up cuDNN
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(model(batch_of(2, seed=1)).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bf16_gives_finite_losses_near_fp32():
    batch = batch_of(4, side=64)
    full = tiny()
    half = tiny()
    full.progress = half.progress = 0.9
    expected = full(batch)
    with torch.autocast("cpu", torch.bfloat16):
        losses = half(batch)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.1)
    sum(losses.values()).backward()
    assert torch.isfinite(parameters(half)).all()


def test_inference_gives_clusters_of_the_asked_size_whatever_the_neighbours():
    model = tiny().eval()
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8)
        for h, w in ((32, 48), (40, 32), (32, 48))
    ]
    mixed = model([{"image": x, "height": 20, "width": 30} for x in images])
    assert [tuple(out["sem_seg"].shape) for out in mixed] == [(5, 20, 30)] * 3
    for image, out in zip(images, mixed, strict=True):
        (alone,) = model([{"image": image, "height": 20, "width": 30}])
        torch.testing.assert_close(out["sem_seg"], alone["sem_seg"], rtol=1e-4, atol=1e-5)
    same = model([{"image": images[0]}, {"image": images[2]}])
    assert same[1]["sem_seg"].shape == (5, 32, 48)
    assert not same[0]["sem_seg"].requires_grad


def test_inference_enlarges_in_edge_coordinates(monkeypatch):
    model = tiny().eval()
    cells = torch.tensor([[0.0, 4.0]]).expand(1, 5, 2, 2)
    monkeypatch.setattr(model, "_logits", lambda images: cells)
    (out,) = model([{"image": torch.zeros(3, 8, 8, dtype=torch.uint8), "height": 2, "width": 4}])
    # Centres of the four columns are at -0.25, 0.25, 0.75 and 1.25 cells; the border is continued.
    torch.testing.assert_close(out["sem_seg"], torch.tensor([0.0, 1, 3, 4]).expand(5, 2, 4))


def test_categories_are_the_clusters_of_eval_mode():
    model = tiny()
    images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    found = model.categories(images)
    assert model.training and found.shape == (2, 16, 8)
    assert not model.backbone.stem.conv1.norm.num_batches_tracked
    outputs = model.eval()([{"image": x, "height": 16, "width": 8} for x in images])
    assert torch.equal(found, torch.stack([out["sem_seg"].argmax(0) for out in outputs]))


def test_the_log_counts_clusters_and_warns_of_one():
    drain_metrics()
    model = tiny()
    even = torch.eye(5).repeat(2, 1).T[None, :, None, :] * 9  # two cells for each of 5 clusters
    model._watch(even)
    found = drain_metrics()
    assert float(found["clusters/perplexity"]) == pytest.approx(5, rel=1e-4)
    assert float(found["clusters/used"]) == 5
    model._watch(torch.zeros(1, 5, 2, 2))
    found = drain_metrics()
    assert float(found["clusters/perplexity"]) == 1 and float(found["clusters/used"]) == 1


def test_export_is_the_backbone():
    model = tiny()
    exported = model.export()
    assert set(exported) == set(model.backbone.state_dict())
    assert "stem.conv1.weight" in exported


def test_bad_settings_are_sentences():
    with pytest.raises(UserError, match="both are 'auto', or both numbers"):
        tiny(pixel_weight=1.0)
    for changes, message in (
        ({"num_classes": "auto"}, "num_classes is 'auto'; it must be a whole number of at least 2"),
        ({"aux_classes": 1}, "aux_classes is 1; it must be a whole number of at least 2"),
        ({"channels": 0}, "channels is 0"),
        ({"region_start": 8}, "share of the run"),
        ({"region_temperature": 0}, "region_temperature is 0; .* must be above 0"),
        ({"region_temperature": -1}, "region_temperature is -1"),
        ({"seg_weight": -1}, "must not be negative"),
        ({"region_weight": float("nan")}, "must not be negative"),
    ):
        with pytest.raises(UserError, match=message):
            tiny(**changes)
    with pytest.raises(UserError, match="freeze_at to 0"):
        DenseSiamSegmentor(backbone=tiny_resnet(freeze_at=2))


def test_detectron2s_own_config_builds_it():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "DenseSiamSegmentor", "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnet = cfg.MODEL.RESNETS
    resnet.DEPTH, resnet.RES2_OUT_CHANNELS, resnet.NORM = 18, 64, "BN"
    resnet.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 6
    model = build_model(cfg)
    assert isinstance(model, DenseSiamSegmentor) and model.num_classes == 6
    assert model.aux_projector[6].out_channels == 128
