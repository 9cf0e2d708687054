"""MoCo v2: against an eager loop in the original order, over ranks, under bf16 and accumulation."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from d2_unsupdet.config import add_unsupdet_config
from d2_unsupdet.engine.sync_batch_norm import resolve_sync_bn, use_sync_bn
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import drain_metrics
from d2_unsupdet.pretext import MoCoV2
from tests.pretext.tiny import paired_batch, parameters, tiny_moco, tiny_resnet
from tests.ranks import run_ranks


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    trainable = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trainable, lr=0.05, momentum=0.9, weight_decay=1e-4)


def train(model: MoCoV2, batches: list[list[dict]]) -> list[float]:
    """The deferred order, as our trainer drives it."""
    model.auto_commit = False
    optimizer, losses = sgd(model), []
    for batch in batches:
        loss = model(batch)["loss_image_res5"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.commit()
        losses.append(loss.item())
    return losses


def train_in_the_original_order(model: MoCoV2, batches: list[list[dict]]) -> list[float]:
    """Query forward, EMA, key forward, cross-entropy, enqueue, optimizer step; written plainly."""
    optimizer, losses = sgd(model), []
    bank, pointer = model.queues["image_res5"].keys.clone(), 0
    for batch in batches:
        images = torch.stack([s["views"] for s in batch]).double()
        images = (images - model.views.mean) / model.views.std
        q = model.query(images[:, 0])["image_res5"]
        with torch.no_grad():
            for k, p in zip(model.key.parameters(), model.query.parameters(), strict=True):
                k.copy_(k + (1 - model.momentum) * (p - k))
            k = model.key(images[:, 1])["image_res5"]
        logits = (
            torch.cat([(q * k).sum(1, keepdim=True), q @ bank.T], 1) / model.image_loss.temperature
        )
        loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
        bank = bank.clone()
        for key in k:
            bank[pointer] = key
            pointer = (pointer + 1) % len(bank)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():  # the deferred model has made the next step's update already
        for k, p in zip(model.key.parameters(), model.query.parameters(), strict=True):
            k.copy_(k + (1 - model.momentum) * (p - k))
    model.queues["image_res5"].keys.copy_(bank)
    return losses


@pytest.fixture(scope="module")
def batches() -> list[list[dict]]:
    return [paired_batch(5, seed) for seed in range(6)]  # 30 keys wrap around a bank of 24


def test_deferred_equals_the_original_order(batches):
    deferred, eager = tiny_moco().double(), tiny_moco().double()
    losses = train(deferred, batches), train_in_the_original_order(eager, batches)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for (name, a), b in zip(
        deferred.state_dict().items(), eager.state_dict().values(), strict=True
    ):
        if "pointer" not in name:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9, msg=name)


def test_an_unaware_loop_gives_the_same_weights(batches):
    aware, unaware = tiny_moco(), tiny_moco()
    train(aware, batches[:3])
    optimizer = sgd(unaware)
    for batch in batches[:3]:
        optimizer.zero_grad()
        unaware(batch)["loss_image_res5"].backward()
        optimizer.step()
    saved = unaware.state_dict()
    assert all(torch.equal(v, saved[k]) for k, v in aware.state_dict().items())


def test_accumulated_forwards_see_one_bank_and_one_teacher(batches):
    model = tiny_moco()
    model.auto_commit = False
    before = parameters(model.key), model.queues["image_res5"].keys.clone()
    first = model(batches[0])["loss_image_res5"]
    model(batches[1])
    again = model(batches[0])["loss_image_res5"]
    assert torch.equal(first, again)
    assert torch.equal(parameters(model.key), before[0])
    assert torch.equal(model.queues["image_res5"].keys, before[1])
    model.commit()
    assert int(model.queues["image_res5"].pointer) == 15
    assert torch.equal(model.queues["image_res5"].keys[15:], before[1][15:])


def test_discard_takes_the_step_back(batches):
    model = tiny_moco()
    model.auto_commit = False
    before = copy.deepcopy(model.state_dict())
    model(batches[0])
    model.discard()
    model.commit()
    after = model.state_dict()
    running = ("running_mean", "running_var", "num_batches_tracked")
    assert all(torch.equal(v, after[k]) for k, v in before.items() if not k.endswith(running))


def test_gradient_reaches_the_query_side_only(batches):
    model = tiny_moco()
    model(batches[0])["loss_image_res5"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.query.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.key.parameters())


def test_batch_statistics_of_the_key_encoder_move_by_its_own_forward(batches):
    model = tiny_moco()
    model(batches[0])
    query, key = model.query.backbone.stem.conv1.norm, model.key.backbone.stem.conv1.norm
    assert not torch.equal(key.running_mean, torch.zeros(64))
    assert not torch.equal(key.running_mean, query.running_mean)


def test_loss_does_not_depend_on_the_order_of_the_batch(batches):
    model = tiny_moco().double()
    model.auto_commit = False
    shuffled = [batches[0][i] for i in (3, 0, 4, 1, 2)]
    losses = [model(batch)["loss_image_res5"].item() for batch in (batches[0], shuffled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_metrics(batches):
    drain_metrics()
    model = tiny_moco()
    model(batches[0])
    metrics = {name: value.item() for name, value in drain_metrics().items()}
    assert set(metrics) == {
        f"image_res5/{name}"
        for name in ("accuracy", "positive_similarity", "negative_similarity", "feature_std")
    }
    assert 0 <= metrics["image_res5/accuracy"] <= 1 and metrics["image_res5/feature_std"] > 0


def test_state_dict_round_trip_continues_bit_for_bit(batches):
    model = tiny_moco()
    train(model, batches[:2])
    resumed = tiny_moco(seed=1)
    resumed.load_state_dict(model.state_dict())
    assert train(model, batches[2:4]) == train(resumed, batches[2:4])
    assert torch.equal(parameters(model), parameters(resumed))


def test_bf16_is_close_to_fp32():
    losses, batch = [], paired_batch(5, side=64)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = tiny_moco()(batch)["loss_image_res5"]
        loss.backward()
        assert loss.dtype == torch.float32
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_chunked_logits_change_nothing(batches):
    assert tiny_moco(logit_chunk=2).image_loss.chunk == 2
    gradients = []
    for chunk in (None, 2):
        model = tiny_moco(logit_chunk=chunk)
        model(batches[0])["loss_image_res5"].backward()
        gradients.append(model.query.image_heads["res5"].out.weight.grad)
    torch.testing.assert_close(*gradients)


def test_evaluation_stores_nothing(batches):
    model = tiny_moco().eval()
    pointer = model.queues["image_res5"].pointer.clone()
    model(batches[0])
    model.commit()
    assert torch.equal(model.queues["image_res5"].pointer, pointer)


def test_export_is_the_query_backbone_strictly(batches):
    model = tiny_moco()
    train(model, batches[:1])
    exported = model.export()
    assert {"stem.conv1.weight", "stem.conv1.norm.running_mean", "res5.1.conv2.weight"} <= set(
        exported
    )
    fresh = tiny_resnet()
    fresh.load_state_dict(exported)
    images = torch.randn(2, 3, 32, 32)
    expected = model.query.backbone.eval()(images)["res5"]
    assert torch.equal(fresh.eval()(images)["res5"], expected)


def train_half(model: MoCoV2, rank: int, steps: int) -> None:
    """Train under DDP on this rank's half of each batch of 8."""
    parallel = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = sgd(model)
    model.auto_commit = False
    for step in range(steps):
        torch.manual_seed(10 * step + rank)
        optimizer.zero_grad()
        parallel(paired_batch(8, step)[4 * rank :][:4])["loss_image_res5"].backward()
        optimizer.step()
        model.commit()


def two_ranks(rank: int) -> dict[str, torch.Tensor]:
    """What bank and teacher hold after two steps, and which images this rank's teacher saw."""
    model = tiny_moco()
    seen: list[torch.Tensor] = []
    model.key.register_forward_pre_hook(lambda _, args: seen.append(args[0].mean((1, 2, 3))))
    train_half(model, rank, steps=2)
    synced = resolve_sync_bn(use_sync_bn(tiny_moco().double()))
    train_half(synced, rank, steps=3)
    queue = model.queue("image_res5")
    second_views = torch.stack([s["views"][1] for s in paired_batch(8, 0)])
    return {
        "bank": queue.keys,
        "pointer": queue.pointer,
        "query": parameters(model.query),
        "key": parameters(model.key),
        "seen": seen[0],
        "all": model.views(second_views).mean((1, 2, 3)),
        "synced": synced.state_dict(),
    }


@pytest.fixture(scope="module")
def both_ranks():
    return run_ranks(two_ranks)


def test_two_ranks_share_bank_and_weights_and_encode_each_others_keys(both_ranks):
    first, second = both_ranks
    for name in ("bank", "pointer", "query", "key"):
        assert torch.equal(first[name], second[name]), name
    assert int(first["pointer"]) == 16
    # Every image was a key exactly once, and no rank encoded just its own half.
    together = torch.cat([first["seen"], second["seen"]])
    torch.testing.assert_close(together.sort().values, first["all"].sort().values)
    assert not torch.equal(first["seen"].sort().values, first["all"][:4].sort().values)


def test_with_sync_bn_two_ranks_equal_one_process_with_the_whole_batch(both_ranks):
    alone = tiny_moco().double()
    train(alone, [paired_batch(8, step) for step in range(3)])
    for rank in both_ranks:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(rank["synced"][name], value, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_does_not_wait_for_the_gpu(batches):
    model = tiny_moco().cuda()
    model.auto_commit = False
    model(batches[0])  # warms up cuDNN
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(batches[1])["loss_image_res5"].backward()
        model.commit()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bad_settings_are_sentences(batches):
    with pytest.raises(UserError, match="'image_res5' holds 4 keys but one step brings 5"):
        train(tiny_moco(queue_size=4), batches[:1])
    with pytest.raises(UserError, match="no output 'res6'.*Did you mean 'res5'"):
        MoCoV2(backbone=tiny_resnet(), level="res6")
    for changes in ({"freeze_at": 1}, {"norm": "FrozenBN"}):
        with pytest.raises(UserError, match="frozen parts.*freeze_at to 0"):
            MoCoV2(backbone=tiny_resnet(**changes))


def test_yaml_config_builds_the_same_model():
    cfg = get_cfg()
    add_unsupdet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "MoCoV2", "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnet = cfg.MODEL.RESNETS
    resnet.DEPTH, resnet.RES2_OUT_CHANNELS, resnet.NORM = 18, 64, "BN"
    resnet.OUT_FEATURES = ["res5"]
    cfg.MODEL.MOCO.QUEUE_SIZE, cfg.MODEL.MOCO.DIM = 24, 16
    cfg.MODEL.MOCO.TEMPERATURE, cfg.MODEL.MOCO.MOMENTUM, cfg.MODEL.MOCO.SHUFFLE_BN = (
        0.07,
        0.99,
        False,
    )
    model = build_model(cfg)
    assert isinstance(model, MoCoV2) and not model.shuffle_bn
    assert model.momentum == 0.99 and model.image_loss.temperature == 0.07
    model.load_state_dict(tiny_moco().state_dict())
