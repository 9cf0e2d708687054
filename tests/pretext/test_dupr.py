"""DUPR: losses against loops, banks of their own, pairs without overlap, ranks, and MoCo v2 as a
case of it."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import roi_align

from d2_unsupdet.config import add_unsupdet_config
from d2_unsupdet.engine.sync_batch_norm import resolve_sync_bn, use_sync_bn
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import drain_metrics
from d2_unsupdet.pretext import DUPR, InfoNCE, MoCoV2
from d2_unsupdet.pretext.overlap import view_geometry
from tests.pretext.tiny import paired_batch, parameters, tiny_dupr, tiny_moco, tiny_resnet
from tests.ranks import run_ranks

NAMES = [f"image_res{i}" for i in (2, 3, 4, 5)] + ["patch_res4", "patch_res5"]
WEIGHTS = dict(zip(NAMES, (0.1, 0.4, 0.7, 1.0, 1.0, 1.0), strict=True))
RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trainable, lr=0.05, momentum=0.9, weight_decay=1e-4)


def train(model: DUPR, batches: list[list[dict]]) -> list[float]:
    model.auto_commit = False
    optimizer, losses = sgd(model), []
    for step, batch in enumerate(batches):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss = sum(model(batch).values())
        loss.backward()
        optimizer.step()
        model.commit()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def batches() -> list[list[dict]]:
    return [paired_batch(5, seed, side=64) for seed in range(4)]


@torch.no_grad()
def info_nce(query: torch.Tensor, key: torch.Tensor, bank: torch.Tensor) -> float:
    near = math.exp(float(query @ key) / 0.2)
    return -math.log(near / (near + sum(math.exp(float(query @ k) / 0.2) for k in bank)))


@torch.no_grad()
def naive_losses(model: DUPR, batch: list[dict], reduction: str) -> dict[str, float]:
    """One image, one cell, one key at a time; flips are undone in the maps, not in the patches."""
    images = torch.stack([s["views"] for s in batch]).double()
    images = (images - model.views.mean) / model.views.std
    maps = [side.backbone(images[:, v]) for v, side in enumerate((model.query, model.key))]
    sides = (model.query, model.key)
    losses = {}
    for name in NAMES:
        kind, level = name.split("_")
        heads = [getattr(side, f"{kind}_heads")[level] for side in sides]
        bank = model.queue(name).keys
        values = []
        for i, sample in enumerate(batch):
            own = [m[level][i : i + 1] for m in maps]
            if kind == "image":
                q, k = (head(x)[0] for head, x in zip(heads, own, strict=True))
                values.append(info_nce(q, k, bank))
            elif sample["valid"]:
                cells = []
                for v, (head, x) in enumerate(zip(heads, own, strict=True)):
                    box = sample["overlap"][v].double()
                    if sample["flipped"][v]:
                        x = x.flip(-1)
                        box = torch.stack([64 - box[2], box[1], 64 - box[0], box[3]])
                    size = {"res4": 4, "res5": 2}[level]
                    scale = x.shape[-1] / 64
                    roi = roi_align(x, [box[None]], size, scale, aligned=True)
                    cells.append(head(roi)[0].flatten(1).T)
                each = [info_nce(q, k, bank) for q, k in zip(*cells, strict=True)]
                values.append(sum(each) / (len(each) if reduction == "mean" else 1))
        losses[f"loss_{name}"] = WEIGHTS[name] * sum(values) / len(values)
    return losses


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_equal_loops(reduction, batches):
    model = tiny_dupr(patch_reduction=reduction).double()
    batch = [dict(s) for s in batches[0]]
    batch[2] |= {"valid": False, "overlap": torch.zeros(2, 4)}  # counts in no patch loss
    losses = {k: v.item() for k, v in model(batch).items()}
    assert losses == pytest.approx(naive_losses(model, batch, reduction), rel=1e-6)


def test_patch_loss_is_the_image_loss_when_the_patch_is_the_view(batches):
    """S = 1, the whole view as box and the same head: RoIAlign is an average pool."""
    model = tiny_dupr(patch_sizes=(1, 1, 1, 1), patch_keys=1, queue_size=40).double()
    for branch in (model.query, model.key):
        for level in ("res4", "res5"):
            image, patch = branch.image_heads[level], branch.patch_heads[level]
            with torch.no_grad():
                for a, b in zip(patch.parameters(), image.parameters(), strict=True):
                    a.copy_(b.view_as(a))
    for level in ("res4", "res5"):
        model.queue(f"patch_{level}").keys.copy_(model.queue(f"image_{level}").keys)
    whole = torch.tensor([[0.0, 0, 64, 64]] * 2)
    batch = [{**s, "overlap": whole, "valid": True} for s in batches[0]]
    losses = model(batch)
    assert losses["loss_patch_res5"].item() == pytest.approx(losses["loss_image_res5"].item())
    assert losses["loss_patch_res4"].item() == pytest.approx(losses["loss_image_res4"].item() / 0.7)


def test_moco_v2_is_dupr_with_one_level_and_no_patches(batches):
    moco = tiny_moco()
    torch.manual_seed(0)
    settings = {"dim": 16, "queue_size": 24, "momentum": 0.9}
    dupr = DUPR(
        backbone=tiny_resnet(), image_weights=(0, 0, 0, 1), patch_weights=(0, 0, 0, 0), **settings
    )
    assert isinstance(moco, MoCoV2) and moco.state_dict().keys() == dupr.state_dict().keys()
    assert train(moco, batches[:3]) == train(dupr, batches[:3])
    assert torch.equal(parameters(moco), parameters(dupr))


def test_each_bank_has_its_own_pointer_and_is_used_before_it_is_filled(batches):
    model = tiny_dupr()
    before = {name: model.queue(name).keys.clone() for name in NAMES}
    train(model, batches[:1])
    for name in NAMES:
        count = 5 if name.startswith("image") else 15  # three patches an image
        queue = model.queue(name)
        assert int(queue.pointer) == count, name
        assert torch.equal(queue.keys[count:], before[name][count:])
        assert not torch.equal(queue.keys[:count], before[name][:count])
        torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(len(queue.keys)))
    assert len({float(before[name][0, 0]) for name in NAMES}) == len(NAMES)


def test_patch_keys_are_different_cells_of_the_key_side(batches):
    model = tiny_dupr().double()
    model.auto_commit = False
    torch.manual_seed(3)
    model(batches[0])
    stored = model._outstanding[0]["patch_res5"].view(5, 3, 16)
    keys = model._encode_keys(
        torch.stack([s["views"][1] for s in batches[0]]), _second_view(batches[0])
    )["patch_res5"]
    for picked, patches in zip(stored, keys.flatten(2).transpose(1, 2), strict=True):
        found = [int((patches - key).abs().sum(1).argmin()) for key in picked]
        assert len(set(found)) == 3
        torch.testing.assert_close(picked, patches[found])


def _second_view(batch):
    return view_geometry(batch, torch.device("cpu"))[1]


def test_patch_keys_are_drawn_evenly_and_anew():
    model = tiny_dupr(patch_keys=2)
    torch.manual_seed(0)
    draws = [model._choose_patches(50)["patch_res4"] for _ in range(8)]
    counts = torch.cat(draws).flatten().bincount(minlength=16)
    assert counts.min() > 25 and counts.max() < 80  # 800 draws of 16 cells: 50 each
    assert (
        not torch.equal(draws[0], draws[1]) and len({tuple(row.tolist()) for row in draws[0]}) > 9
    )


@dataclass
class Spy:
    """A contrast that notes what it is asked."""

    inner: InfoNCE
    asked: list[tuple[int, int]]

    def __call__(self, query, positive, bank):
        self.asked.append((len(query), len(bank)))
        return self.inner(query, positive, bank)


def test_images_and_patches_have_a_loss_and_banks_of_their_own(batches):
    image, patch = Spy(InfoNCE(temperature=0.3), []), Spy(InfoNCE(temperature=0.1, chunk=7), [])
    model = tiny_dupr(image_loss=image, patch_loss=patch, queue_size=24, patch_queue_size=40)
    model(batches[0])
    assert image.asked == [(5, 24)] * 4
    assert patch.asked == [(5 * 16, 40), (5 * 4, 40)]


def test_patch_logits_exist_only_by_the_chunk(batches):
    """The largest tensor of a step's contrasts, which is what the memory of DUPR depends on."""
    sizes = []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] in (1000, 1001):
                sizes.append(out.shape[0])
            return out

    for chunk, most in ((20, 20), (None, 5 * 16)):
        sizes.clear()
        model = tiny_dupr(patch_loss=InfoNCE(chunk=chunk), patch_queue_size=1000)
        with Largest():
            sum(model(batches[0]).values()).backward()
        assert max(sizes) == most


def test_the_sampling_ratio_reaches_roi_align(batches):
    whole = [{**s, "overlap": torch.tensor([[3.0, 5, 61, 50]] * 2)} for s in batches[0]]
    settings = {"patch_sizes": (8, 4, 2, 1), "patch_keys": 1}
    found = [
        tiny_dupr(sampling_ratio=ratio, **settings)(whole)["loss_patch_res4"].item()
        for ratio in (0, 1, 3)
    ]
    assert len(set(found)) == 3


def test_more_patches_than_cells_is_a_warning_said_once(batches, caplog):
    model = tiny_dupr(patch_sizes=(16, 8, 4, 7))
    model(batches[0])
    model(batches[1])
    (said,) = {r.getMessage() for r in caplog.records if r.levelname == "WARNING"}
    assert "7x7 patches of res5, whose map has 2x2 cells at views of 64 pixels" in said


def test_banks_are_checked_against_batch_and_data(caplog):
    model = tiny_dupr(queue_size=24, patch_queue_size=40, patch_keys=3)
    model.check_run(batch=13, images=24)
    assert not caplog.records
    with pytest.raises(UserError, match="'patch_res4' holds 40 keys, .* 14 images brings 42"):
        model.check_run(batch=14, images=100)
    with pytest.raises(UserError, match="'image_res2' holds 24 keys.*raise queue_size"):
        model.check_run(batch=25, images=100)
    model.check_run(batch=4, images=14)  # 14 keys of whole views an epoch, 42 of patches
    (said,) = caplog.messages
    assert "image_res2 (24 keys, better 7)" in said and "patch" not in said
    tiny_dupr(image_weights=(0,) * 4, queue_size=4).check_run(batch=8, images=100)


def test_momentum_reaches_encoder_and_heads(batches):
    model = tiny_dupr()
    before = copy.deepcopy(model.key)
    train(model, batches[:1])
    for (name, old), new, query in zip(
        before.named_parameters(),
        model.key.parameters(),
        model.query.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * query, msg=name)
        assert not new.requires_grad
    assert any("patch_heads" in name for name, _ in before.named_parameters())


def test_gradient_reaches_the_query_side_only(batches):
    model = tiny_dupr()
    sum(model(batches[0]).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.query.parameters())
    assert all(p.grad is None for p in model.key.parameters())


def test_a_batch_without_any_overlap_trains_the_images(batches):
    model = tiny_dupr()
    lost = [{**s, "valid": False, "overlap": torch.zeros(2, 4)} for s in batches[0]]
    losses = model(lost)
    sum(losses.values()).backward()
    assert losses["loss_patch_res4"].item() == 0 == losses["loss_patch_res5"].item()
    assert all(torch.isfinite(p.grad).all() for p in model.query.parameters())
    model.commit()
    assert all(torch.isfinite(model.queue(name).keys).all() for name in NAMES)


def test_chunked_logits_change_nothing(batches):
    gradients = []
    for chunk in (None, 7):
        model = tiny_dupr(patch_loss=InfoNCE(chunk=chunk)).double()
        sum(model(batches[0]).values()).backward()
        gradients.append(model.query.patch_heads["res4"].out.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_bf16_is_close_to_fp32():
    found, batch = [], paired_batch(6, side=64)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = tiny_dupr()(batch)
        sum(losses.values()).backward()
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found[0] == pytest.approx(found[1], rel=0.15)


def test_losses_do_not_depend_on_the_order_of_the_batch(batches):
    model = tiny_dupr().double()
    model.auto_commit = False
    shuffled = [batches[0][i] for i in (3, 0, 4, 1, 2)]
    losses = [{k: v.item() for k, v in model(b).items()} for b in (batches[0], shuffled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_state_dict_round_trip_continues_bit_for_bit(batches):
    model = tiny_dupr()
    train(model, batches[:2])
    resumed = tiny_dupr(seed=1)
    resumed.load_state_dict(model.state_dict())
    assert train(model, batches[2:]) == train(resumed, batches[2:])
    assert torch.equal(parameters(model), parameters(resumed))


def test_metrics_and_export(batches):
    drain_metrics()
    model = tiny_dupr()
    model(batches[0])
    kinds = ("accuracy", "positive_similarity", "negative_similarity", "feature_std")
    assert set(drain_metrics()) == {f"{name}/{kind}" for name in NAMES for kind in kinds}
    fresh = tiny_resnet()
    fresh.load_state_dict(model.export())


def train_half(model: DUPR, rank: int, steps: int) -> None:
    parallel = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = sgd(model)
    model.auto_commit = False
    for step in range(steps):
        # One process seeds with (seed, step, rank 0); the second rank has numbers of its own.
        torch.manual_seed(step + 100 * rank)
        optimizer.zero_grad()
        sum(parallel(uneven_batch(step)[4 * rank :][:4]).values()).backward()
        optimizer.step()
        model.commit()


def uneven_batch(step: int) -> list[dict]:
    """All pairs without overlap are on the second rank."""
    batch = paired_batch(8, step, side=64)
    for sample in batch[5:]:
        sample |= {"valid": False, "overlap": torch.zeros(2, 4)}
    return batch


def two_ranks(rank: int) -> dict[str, torch.Tensor]:
    model = tiny_dupr()
    seen: list[tuple] = []
    model.key.register_forward_pre_hook(lambda _, args: seen.append(args))
    train_half(model, rank, steps=1)
    synced = resolve_sync_bn(use_sync_bn(tiny_dupr().double()))
    train_half(synced, rank, steps=2)
    views = torch.stack([s["views"][1] for s in uneven_batch(0)])
    boxes = torch.stack([s["overlap"][1] for s in uneven_batch(0)])
    flipped = torch.stack([s["flipped"][1] for s in uneven_batch(0)])
    return {
        "images": seen[0][0].mean((1, 2, 3)),
        "boxes": seen[0][1],
        "flipped": seen[0][2],
        "all_images": model.views(views).mean((1, 2, 3)),
        "all_boxes": boxes,
        "all_flipped": flipped,
        "synced": synced.state_dict(),
    }


@pytest.fixture(scope="module")
def both_ranks():
    return run_ranks(two_ranks)


def test_boxes_and_flips_travel_with_their_image(both_ranks):
    for rank in both_ranks:
        for image, box, flip in zip(rank["images"], rank["boxes"], rank["flipped"], strict=True):
            source = int((rank["all_images"] - image).abs().argmin())
            expected = rank["all_boxes"][source]
            if not expected.any():
                expected = torch.tensor([0.0, 0, 64, 64])
            torch.testing.assert_close(box, expected)
            assert flip == rank["all_flipped"][source]


def test_with_sync_bn_two_ranks_equal_one_process_with_the_whole_batch(both_ranks):
    alone = tiny_dupr().double()
    train(alone, [uneven_batch(step) for step in range(2)])
    for rank in both_ranks:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(rank["synced"][name], value, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_does_not_wait_for_the_gpu(batches):
    model = tiny_dupr().cuda()
    model.auto_commit = False
    sum(model(batches[0]).values()).backward()  # warms up cuDNN
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(model(batches[1]).values()).backward()
        model.commit()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_weights": (1, 1)}, "image_weights has 2 values .* 4 levels"),
        ({"image_weights": (0,) * 4, "patch_weights": (0,) * 4}, "Every weight .* is 0"),
        ({"patch_weights": (0, 0, -1, 1)}, "no value may be negative"),
        ({"patch_reduction": "max"}, "'max'; use 'mean' or 'sum'"),
        ({"patch_keys": 5}, "patch_keys=5, but res5 has 2x2"),
        ({"levels": ("res2", "res3", "res4", "res6")}, "no output 'res6'"),
        ({"momentum": 1.5}, "momentum=1.5 must lie in"),
        ({"sampling_ratio": -3}, "sampling_ratio=-3"),
        ({"dim": 0}, "dim=0"),
        ({"patch_sizes": (16, 8, 4, 0)}, "patch_sizes is 0 at res5"),
    ],
)
def test_bad_settings_are_sentences(changes, message):
    with pytest.raises(UserError, match=message):
        tiny_dupr(**changes)


def test_yaml_config_builds_the_same_model():
    cfg = get_cfg()
    add_unsupdet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "DUPR", "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnet = cfg.MODEL.RESNETS
    resnet.DEPTH, resnet.RES2_OUT_CHANNELS, resnet.NORM = 18, 64, "BN"
    resnet.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    keys = cfg.MODEL.DUPR
    keys.QUEUE_SIZE, keys.PATCH_QUEUE_SIZE, keys.DIM, keys.PATCH_KEYS = 24, 40, 16, 3
    keys.TEMPERATURE, keys.PATCH_CHUNK, keys.MOMENTUM, keys.SHUFFLE_BN = 0.3, 7, 0.9, False
    keys.PATCH_SIZES, keys.PATCH_REDUCTION = [16, 8, 4, 2], "sum"
    keys.IMAGE_WEIGHTS, keys.PATCH_WEIGHTS = [0.1, 0.4, 0.7, 2.0], [0.0, 0.0, 3.0, 1.0]
    model = build_model(cfg)
    assert isinstance(model, DUPR)
    assert model.weights == {**WEIGHTS, "image_res5": 2.0, "patch_res4": 3.0}
    assert model.image_loss == InfoNCE(temperature=0.3)
    assert model.patch_loss == InfoNCE(temperature=0.3, chunk=7)
    assert (model.momentum, model.shuffle_bn, model.patch_keys) == (0.9, False, 3)
    assert model.patch_reduction == "sum"
    assert model.query.patch_sizes == {"res4": 4, "res5": 2}
    model.load_state_dict(tiny_dupr().state_dict())
