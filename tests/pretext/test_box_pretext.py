"""Every pretext of a whole detector on every detector: 4 x 9 cells, one set of promises."""

import copy
from typing import Any

import pytest
import torch

from d2_unsupdet.checkpoint.load import load_weights
from d2_unsupdet.detectors import criterion
from d2_unsupdet.detectors.deformable_attention import use_implementation
from d2_unsupdet.engine.sync_batch_norm import resolve_sync_bn, use_sync_bn
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext import detreg, region_pretext
from d2_unsupdet.pretext.box_pretext import DROPPED
from tests.detectors.tiny import NAMES, batch_of, tiny_detr
from tests.detectors.waits import Waits, watch_transfers
from tests.pretext.tiny_boxes import METHODS, SIZES, batch_for, tiny_pretext
from tests.ranks import run_ranks

cells = pytest.mark.parametrize(
    ("method", "name"), [(method, name) for method in METHODS for name in NAMES]
)
methods = pytest.mark.parametrize("method", METHODS)

# Conditional DETR's content starts at zero, so layer 0 has nothing to attend to yet.
SILENT = {
    "conditional_detr": {
        f"detector.decoder.layers.0.self_attn.{part}.weight"
        for part in ("query_content", "key_content", "value")
    }
}
# What is random in a step: off where two steps are compared.
CALM = {"query_dropout": 0.0, "jitter": 0.0, "denoising": False}


def seen_by(model: Any, batch: list[dict]) -> dict[str, Any]:
    """What the detector decoded and was taught in one step of training."""
    seen: dict[str, Any] = {}
    losses = model.detector.losses

    def keep(decoded: Any, encoded: Any, queries: Any, targets: Any, allowed: Any = None) -> Any:
        seen.update(decoded=decoded, encoded=encoded, targets=targets, allowed=allowed)
        seen["queries"] = queries
        return losses(decoded, encoded, queries, targets, allowed)

    model.detector.losses = keep
    try:
        torch.manual_seed(0)
        seen["losses"] = model.train()(batch)
    finally:
        del model.detector.losses
    return seen


def of_image(image: int, images: int, method: str) -> list[int]:
    """Rows of an image; Siamese DETR has its second views behind all first ones."""
    return [image, images + image] if method == "siamese_detr" else [image]


@cells
def test_every_trained_parameter_learns(method, name):
    model = tiny_pretext(method, name, freeze_at=0).train()
    losses = model(batch_for(method))
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    silent = {n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()}
    assert silent == SILENT.get(name, set())
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.startswith("teacher."))


@cells
def test_an_image_is_taught_by_its_own_boxes(method, name):
    model = tiny_pretext(method, name, **CALM)
    batch, other = batch_for(method, 3), batch_for(method, 3)
    changed = batch_for(method, 3, seed=1)[1]
    for key in ("priors", "crops"):
        other[1][key] = changed[key] * (0.7 if key == "priors" else 1)
    if method != "siamese_detr":  # sizes differ between images, so boxes must fit their own
        other[1]["priors"] = other[1]["priors"].clamp(max=min(SIZES[1]))
    first, second = seen_by(model, batch), seen_by(model, other)
    rows = [r for i in (0, 2) for r in of_image(i, 3, method)]
    for row in rows:
        assert torch.equal(first["decoded"].boxes[:, row], second["decoded"].boxes[:, row])
        assert torch.equal(first["decoded"].logits[:, row], second["decoded"].logits[:, row])
        assert torch.equal(first["targets"][row].boxes, second["targets"][row].boxes)
    conditioned = method in ("up_detr", "siamese_detr")
    for row in of_image(1, 3, method):
        same = torch.equal(first["decoded"].hidden[:, row], second["decoded"].hidden[:, row])
        assert same != conditioned
        assert not torch.equal(first["targets"][row].boxes, second["targets"][row].boxes)


@cells
def test_the_order_of_a_batch_only_orders_the_outputs(method, name):
    model = tiny_pretext(method, name, **CALM).double()
    batch, order = batch_for(method, 3), [2, 0, 1]
    first, second = seen_by(model, batch), seen_by(model, [batch[i] for i in order])
    rows = [r for i in order for r in of_image(i, 3, method)]
    if method == "siamese_detr":
        rows = rows[::2] + rows[1::2]
    for key in ("boxes", "logits", "hidden"):
        expected = getattr(first["decoded"], key)[:, rows]
        torch.testing.assert_close(getattr(second["decoded"], key), expected, rtol=1e-7, atol=1e-9)
    for key, value in first["losses"].items():
        torch.testing.assert_close(second["losses"][key], value, rtol=1e-6, atol=1e-9)


@cells
def test_the_export_is_the_detector_without_its_class(method, name):
    model, bare = tiny_pretext(method, name, seed=3), tiny_detr(name, classes=5, seed=4)
    state = model.export()
    dropped = {key for key in bare.state_dict() if key.startswith(DROPPED)}
    assert state.keys() == bare.state_dict().keys() - dropped
    assert any(key.startswith("heads.classes.") for key in dropped)
    before = copy.deepcopy(bare.state_dict())
    load_weights(bare, state)  # without any permission
    for key, value in bare.state_dict().items():
        assert torch.equal(value, before[key] if key in dropped else state[key]), key


@cells
def test_forty_steps_halve_the_box_loss(method, name, monkeypatch):
    monkeypatch.setattr("tests.pretext.tiny_boxes.SIZES", ((64, 64),) * 4)
    model = tiny_pretext(method, name, **{**CALM, "denoising": True}).train()
    batch, apart = batch_for(method, 4), []
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0)
    for step in range(40):
        torch.manual_seed(step)
        losses = model(batch)
        boxes = {k: v.detach() for k, v in losses.items() if k.startswith("loss_bbox")}
        apart.append(sum(v for k, v in boxes.items() if "dn" not in k))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    assert apart[-1] < apart[0] / 2


@methods
def test_evaluation_answers_as_the_detector_does(method):
    model = tiny_pretext(method, "deformable_detr").eval()
    batch = batch_of(1, 2)
    for ours, bare in zip(model(batch), model.detector(batch), strict=True):
        assert torch.equal(ours["instances"].scores, bare["instances"].scores)
        assert set(ours["instances"].pred_classes.tolist()) <= {0}


@methods
def test_a_step_waits_for_the_device_once(method, monkeypatch):
    model = tiny_pretext(method, "deformable_detr").train()
    batch, waits = batch_for(method), Waits()
    # lists and boxes of the host
    hosts = [(module, "flat_index") for module in (criterion, region_pretext, detreg)]
    transfers = watch_transfers(monkeypatch, waits, [*hosts, (type(model), "targets")])
    with use_implementation("reference"), waits:
        model(batch)
    assert waits.found == [] and len(transfers) == 1


@methods
def test_the_teacher_keeps_the_starting_weights(method):
    model = tiny_pretext(method, "conditional_detr", freeze_at=0).train()
    start = copy.deepcopy(model.teacher.state_dict())
    assert all(
        torch.equal(start[f"backbone.{n}"], t)
        for n, t in model.detector.backbone.state_dict().items()
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    sum(model(batch_for(method)).values()).backward()
    optimizer.step()
    assert all(torch.equal(start[n], t) for n, t in model.teacher.state_dict().items())
    moved = model.detector.backbone.state_dict()
    assert any(not torch.equal(start[f"backbone.{n}"], t) for n, t in moved.items())
    model.begin()
    assert all(torch.equal(model.teacher.backbone.state_dict()[n], t) for n, t in moved.items())


@methods
def test_a_frozen_backbone_is_its_own_teacher(method):
    model = tiny_pretext(method, "detr")
    assert model.teacher is None
    assert not any(name.startswith("teacher.") for name in model.state_dict())
    sum(model.train()(batch_for(method)).values()).backward()
    assert all(p.grad is None for p in model.detector.backbone.parameters())


@methods
@pytest.mark.parametrize("freeze_at", [1, 2, 5])
def test_a_backbone_frozen_at_random_weights_is_refused(method, freeze_at):
    with pytest.raises(UserError, match=r"frozen at random weights \(stem.*give a file"):
        tiny_pretext(method, "detr", freeze_at=freeze_at).begin(loaded=False)
    tiny_pretext(method, "detr", freeze_at=0).begin(loaded=False)


@methods
def test_embeddings_are_the_teachers_of_normalised_crops(method):
    model = tiny_pretext(method, "deformable_detr", freeze_at=0)
    crops = torch.randint(0, 255, (3, 3, 32, 32), dtype=torch.uint8)
    detector = model.detector
    normal = (crops - detector.pixel_mean) / detector.pixel_std
    maps = detector.backbone(normal)
    expected = torch.cat([maps[level].mean((2, 3)) for level in model.levels], dim=1).detach()
    torch.testing.assert_close(model.embed(crops), expected)
    with torch.no_grad():
        for parameter in detector.backbone.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(model.embed(crops), expected)


@methods
def test_any_trainer_gives_the_teacher_the_loaded_weights_once(method):
    start = tiny_pretext(method, "detr", freeze_at=0, seed=1).detector.backbone.state_dict()
    model = copy.deepcopy(tiny_pretext(method, "detr", freeze_at=0, seed=2))
    model.teacher.chosen.fill_(False)
    model._begun = False
    model.detector.backbone.load_state_dict(start)
    model.train()(batch_for(method))
    assert all(torch.equal(model.teacher.backbone.state_dict()[n], t) for n, t in start.items())
    resumed = tiny_pretext(method, "detr", freeze_at=0, seed=3)
    resumed._begun = False
    with torch.no_grad():
        model.detector.backbone.stem.conv1.weight.add_(1)
    resumed.load_state_dict(model.state_dict())
    resumed.train()(batch_for(method))
    assert all(torch.equal(resumed.teacher.backbone.state_dict()[n], t) for n, t in start.items())


@methods
def test_duplicates_are_suppressed_where_overlap_assignment_teaches_them(method):
    model = tiny_pretext(method, "deta").eval()
    background = model.detector.heads.background
    logits = torch.tensor([[[3.0, 0.0]]]) if background else torch.tensor([[[3.0]]])
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(1, 10, 4)
    (found,) = model.detector.postprocess(logits.expand(1, 10, -1), boxes, [(64, 64)])
    assert len(found.scores) == 1 and set(found.labels.tolist()) == {0}
    chance = logits.softmax(-1)[0, 0, 0] if background else logits.sigmoid()[0, 0, 0]
    torch.testing.assert_close(found.scores[0], chance)


@methods
def test_losses_stay_in_full_precision_under_autocast(method):
    model = tiny_pretext(method, "conditional_detr").train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch_for(method))
    assert {value.dtype for value in losses.values()} == {torch.float32}


@methods
def test_a_sample_of_another_mapper_is_named(method):
    model = tiny_pretext(method, "detr").train()
    batch = batch_for(method)
    del batch[1]["priors"]
    with pytest.raises(UserError, match=r"image 1\.jpg has no 'priors': .*Mapper"):
        model(batch)


def test_a_label_outside_the_classes_is_refused():
    with pytest.raises(UserError, match="label=1 is no class of the detector, which has 1"):
        tiny_pretext("detreg", "detr", label=1)


PARALLEL = [
    ("up_detr", "detr"),
    ("detreg", "deformable_detr_two_stage"),
    ("siamese_detr", "conditional_detr"),
]


def fixed_batch(method: str, images: slice) -> list[dict]:
    """Images of one size with three boxes each: the ranks' means are those of all images, and no
    padding leaks into them."""
    batch = batch_for(method, 4)
    for sample in batch:
        key = "views" if method == "siamese_detr" else "image"
        sample[key] = sample[key][..., :64, :64]
        sample["priors"] = sample["priors"].clamp(max=64)
        if method == "detreg":
            sample.update({k: sample[k][:3] for k in ("priors", "prior_scores", "crops")})
    return batch[images]


def gradients_of_a_rank(rank: int, method: str, name: str) -> dict[str, torch.Tensor]:
    model = tiny_pretext(method, name, freeze_at=0, **CALM).double().train()
    model = resolve_sync_bn(use_sync_bn(model))
    whole = torch.distributed.is_initialized()
    parallel = torch.nn.parallel.DistributedDataParallel(model) if whole else model
    images = slice(2 * rank, 2 * rank + 2) if whole else slice(0, 4)
    sum(parallel(fixed_batch(method, images)).values()).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("method", "name"), PARALLEL)
def test_two_ranks_learn_what_one_process_learns(method, name):
    ranks = run_ranks(gradients_of_a_rank, method, name)
    alone = gradients_of_a_rank(0, method, name)
    assert ranks[0].keys() == alone.keys()
    for key, value in alone.items():
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-6, atol=1e-9, msg=key)
        assert torch.equal(ranks[0][key], ranks[1][key])
