"""What holds for each of the nine detectors: who learns, what padding and order may not change."""

import copy
from dataclasses import replace

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import ImageList
from torch import nn

from d2_unsupdet.detectors import (
    DETR,
    DeformableDETR,
    Neck,
    criterion,
    proposals,
    transfer,
)
from d2_unsupdet.detectors.deformable_attention import use_implementation
from d2_unsupdet.detectors.neck import resized_mask
from d2_unsupdet.errors import UserError
from tests.detectors.tiny import NAMES, batch_of, outputs, sample, tiny_config, tiny_detr
from tests.detectors.waits import Waits, watch_transfers
from tests.ranks import run_ranks

every = pytest.mark.parametrize("name", NAMES)
deformable = pytest.mark.parametrize("name", [n for n in NAMES if "def" in n or n == "deta"])
TWO_STAGE = ("deformable_detr_two_stage", "deta")


def without_gradient(model: nn.Module) -> list[str]:
    return [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@every
@pytest.mark.parametrize("objects", [(3, 0), (0, 0), (2, 1)])
def test_every_parameter_gets_a_finite_gradient(name, objects):
    model = tiny_detr(name).train()
    losses = model(batch_of(*objects))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert not without_gradient(model)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every
def test_loss_names_do_not_depend_on_the_batch(name):
    model = tiny_detr(name).train()
    assert model(batch_of(2, 1)).keys() == model(batch_of(0, 0)).keys()


@every
@pytest.mark.parametrize(
    "height, width, objects, options",
    [
        (17, 23, 2, {}),  # a single token on the coarser levels
        (64, 64, 3, {"classes": 1}),
        (64, 64, 30, {}),  # more objects than queries
        (32, 200, 4, {"queries": 5}),
    ],
)
def test_odd_images_train_and_answer(name, height, width, objects, options):
    model = tiny_detr(name, **options)
    images = [sample(height, width, objects, classes=options.get("classes", 5))]
    losses = model.train()(images)
    assert all(torch.isfinite(value) for value in losses.values())
    with torch.no_grad():
        found = model.eval()(images)[0]["instances"]
    assert 0 < len(found) <= 100 and torch.isfinite(found.pred_boxes.tensor).all()


@every
def test_images_of_a_batch_change_places(name):
    model = tiny_detr(name).double().eval()
    batch = batch_of(1, 2, 3)
    with torch.no_grad():
        forward, backward = outputs(model, batch), outputs(model, batch[::-1])
    for a, b in zip(forward, backward, strict=True):
        torch.testing.assert_close(a, b.flip(1), rtol=0, atol=1e-9)


def in_the_image(name: str) -> dict[str, bool]:
    """DAB's original measures its anchors in the padded batch."""
    return {"decoder__padded_position": False} if "dab" in name else {}


@every
def test_padding_changes_nothing_behind_the_neck(name):
    """The same cells, padded to the right and below to a multiple of the coarsest stride."""
    model = tiny_detr(name, **in_the_image(name)).double().eval()
    torch.manual_seed(1)
    levels = len(model.neck.levels)
    coarsest = 32 if levels < 4 else 32 * 2 ** (levels - 3)
    size, padded = (coarsest, 2 * coarsest), (3 * coarsest, 4 * coarsest)
    strides = [32] if levels == 1 else [8 * 2**i for i in range(levels)]
    maps = [torch.randn(2, 64, size[0] // s, size[1] // s).double() for s in strides]
    wide = [
        torch.nn.functional.pad(
            m, (0, padded[1] // s - m.shape[-1], 0, padded[0] // s - m.shape[-2]), value=3.0
        )
        for m, s in zip(maps, strides, strict=True)
    ]
    results = []
    for levels_in, full in ((maps, size), (wide, padded)):
        mask = torch.ones(2, *full, dtype=torch.bool)
        mask[:, : size[0], : size[1]] = False
        masks = [resized_mask(mask, tuple(m.shape[-2:])) for m in levels_in]
        with torch.no_grad():
            encoded = model.encoder(levels_in, masks, [model.position(m) for m in masks])
            if model.proposals is not None:
                found = model.proposals(encoded)
                encoded = replace(encoded, proposals=found)
            results.append(model.decode(encoded, model.queries(encoded)))
    torch.testing.assert_close(results[0].logits, results[1].logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(results[0].boxes, results[1].boxes, rtol=0, atol=1e-9)


@every
def test_mask_padding_makes_an_image_independent_of_its_neighbour(name):
    options = {"backbone__mask_padding": True, "size_divisibility": 128}
    batch = batch_of(1, 1)
    changes = {}
    for masked in (True, False):
        model = tiny_detr(name, **(options if masked else {}), **in_the_image(name)).double()
        model.eval()
        large = sample(250, 130, 1, seed=9)
        with torch.no_grad():
            alone = outputs(model, [batch[1]])[1]
            beside = outputs(model, [batch[1], large])[1][:, :1]
        changes[masked] = (alone - beside).abs().max().item()
    assert changes[True] < 1e-9 < 1e-6 < changes[False]


@every
def test_training_is_one_wait_for_the_matching(name, monkeypatch):
    """Of all that runs on the device only the one transfer of all costs reads numbers back."""
    model = tiny_detr(name).train()
    batch = batch_of(2, 3)
    images, targets = model.preprocess(batch), model.targets(batch)
    waits = Waits()
    # lists of the host, and torchvision's own wait
    hosts = [(criterion, "flat_index"), (proposals, "grouped_nms")]
    transfers = watch_transfers(monkeypatch, waits, hosts)
    with use_implementation("reference"), waits:
        encoded = model.encode(model.features(images))
        queries = model.queries(encoded, targets=targets)
        model.losses(model.decode(encoded, queries), encoded, queries, targets)
    assert waits.found == [] and len(transfers) == 1


def test_waits_are_found():
    x = torch.arange(6.0).view(2, 3)
    with Waits() as waits:
        for call in (
            lambda: x[..., [1, 0]],
            lambda: x[x > 1],
            lambda: x.new_tensor([1.0]),
            lambda: x.sum().item(),
            lambda: torch.tensor([1.0], device=x.device),
            lambda: bool(x.sum() > 1),
            lambda: (x > 1).nonzero(),
        ):
            before = len(waits.found)
            call()
            assert len(waits.found) > before
        count = len(waits.found)
        transfer.to_device([1.0], x.device)
        x[torch.tensor([0, 1])]
    assert len(waits.found) == count


@every
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_waits_once_for_a_gpu(name):
    model = tiny_detr(name).cuda().train()
    batch = batch_of(2, 3)
    model(batch)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as waits:
            model(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    suppressed = len(batch) if name == "deta" else 0  # how many proposals are left of each image
    assert len(waits) == 1 + suppressed


@every
def test_regions_condition_each_image_with_its_own(name):
    """(B, M, C) regions: groups of N / M queries; another image's regions change nothing here."""
    model = tiny_detr(name).double().eval()
    regions = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(3)).double()
    batch = batch_of(1, 1)
    with torch.no_grad():
        encoded = model.encode(model.features(model.preprocess(batch)))
        queries = model.queries(encoded, regions)
        boxes = model.decode(encoded, queries).hidden
        other = regions.clone()
        other[0] += 1
        changed = model.decode(encoded, model.queries(encoded, other)).hidden
        moved = regions.clone()
        moved[:, 2] += 1
        part = model.decode(encoded, model.queries(encoded, moved)).hidden
    assert queries.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(boxes[:, 1], changed[:, 1]) and not torch.equal(boxes[:, 0], changed[:, 0])
    # the groups do not see each other
    assert torch.equal(boxes[:, :, :8], part[:, :, :8])
    assert not torch.equal(boxes[:, :, 8:], part[:, :, 8:])


@every
def test_regions_that_do_not_divide_the_queries_are_refused(name):
    model = tiny_detr(name).eval()
    encoded = model.encode(model.features(model.preprocess(batch_of(1))))
    many = 13 if name in TWO_STAGE else 5
    with pytest.raises(UserError, match="divides|shared by 13 regions"):
        model.queries(encoded, torch.zeros(1, many, 64))


@every
def test_answers_need_no_context(name):
    """Also where nobody switched gradients off."""
    found = tiny_detr(name).eval()(batch_of(1, 1))
    assert all(not one["instances"].pred_boxes.tensor.requires_grad for one in found)


def test_shapes_that_do_not_fit_are_said():
    model = tiny_detr("deformable_detr").train()
    batch = batch_of(1, 1)
    targets = model.targets(batch)
    encoded = model.encode(model.features(model.preprocess(batch)))
    for shape in ((2, 3, 32), (1, 3, 64)):
        with pytest.raises(UserError, match=r"pass \(2, M, 64\)"):
            model.queries(encoded, torch.zeros(shape))
    queries = model.queries(encoded)
    with pytest.raises(UserError, match="1 targets for 2 images"):
        model.losses(model.decode(encoded, queries), encoded, queries, targets[:1])
    with pytest.raises(UserError, match="dim=40 is no multiple"):
        Neck(in_channels=[8], dim=40)


@pytest.mark.parametrize("name", TWO_STAGE)
def test_regions_take_the_best_proposals_of_a_two_stage_detector(name):
    model = tiny_detr(name).double().eval()
    with torch.no_grad():
        encoded = model.encode(model.features(model.preprocess(batch_of(1))))
        plain = model.queries(encoded)
        regions = torch.randn(1, 4, 64).double()
        queries = model.queries(encoded, regions)
    for group in range(4):
        part = slice(3 * group, 3 * group + 3)
        assert torch.equal(queries.reference_logit[:, part], plain.reference_logit[:, :3])
        assert torch.equal(queries.position[:, part], plain.position[:, :3])
        expected = plain.content[:, :3] + regions[:, group]
        torch.testing.assert_close(queries.content[:, part], expected)


@every
def test_allowed_rules_which_query_learns_which_target(name):
    model = tiny_detr(name).train()
    batch = batch_of(3, 3)
    targets = model.targets(batch)
    encoded = model.encode(model.features(model.preprocess(batch)))
    queries = model.queries(encoded, torch.randn(2, 3, 64), targets)
    allowed = queries.group[:, None] == torch.arange(3)
    decoded = model.decode(encoded, queries)
    losses, matches = model.losses(decoded, encoded, queries, targets, allowed)
    assert all(torch.isfinite(v) for v in losses.values())
    for match in matches.layers:
        for image in range(2):
            query, target = match.pair(image)
            assert torch.equal(query // 4, target)


@every
def test_levels_of_the_memory_are_maps_again(name):
    model = tiny_detr(name).eval()
    encoded = model.encode(model.features(model.preprocess(batch_of(1, 1))))
    start = 0
    for index, (height, width) in enumerate(encoded.shapes):
        level = encoded.level(index)
        assert level.shape == (2, 64, height, width)
        row = encoded.memory[1, start + width + 1 if height > 1 and width > 1 else start]
        cell = level[1, :, 1, 1] if height > 1 and width > 1 else level[1, :, 0, 0]
        assert torch.equal(row, cell)
        start += height * width


@every
def test_a_class_count_of_another_data_set_is_said(name):
    model = tiny_detr(name, classes=2).train()
    image = sample(64, 64, 3, seed=1)
    image["instances"].gt_classes[1] = 4
    with pytest.raises(UserError, match=r"class 4.*are 0 to 1.*num_classes"):
        model([image])
    image["instances"].gt_classes[1] = -1
    with pytest.raises(UserError, match=r"class -1.*are 0 to 1"):
        model([image])


def test_an_unlabelled_image_is_said():
    image = sample(64, 64, 1)
    del image["instances"]
    with pytest.raises(UserError, match="image has no 'instances'"):
        tiny_detr("detr").train()([image])


def test_parts_that_do_not_belong_together_are_refused():
    config = tiny_config("deformable_detr_two_stage")
    config.proposals = None
    with pytest.raises(UserError, match="proposals and ProposalQueries"):
        instantiate(config)
    config = tiny_config("detr")
    config.heads.background = False
    with pytest.raises(UserError, match="background"):
        instantiate(config)


@every
def test_nan_predictions_name_the_image(name):
    model = tiny_detr(name).train()
    batch = batch_of(1, 2)
    targets = model.targets(batch)
    encoded = model.encode(model.features(model.preprocess(batch)))
    queries = model.queries(encoded, targets=targets)
    decoded = model.decode(encoded, queries)
    broken = copy.copy(decoded)
    boxes = decoded.boxes.detach().clone()
    boxes[:, 1] = float("nan")
    object.__setattr__(broken, "boxes", boxes)
    if decoded.reference is not None:
        reference = decoded.reference.detach().clone()
        reference[1] = float("nan")
        object.__setattr__(broken, "reference", reference)
    with pytest.raises(FloatingPointError, match=r"image 1\.jpg"):
        model.losses(broken, encoded, queries, targets)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_detr_has_norms_on_either_side(pre_norm):
    model = tiny_detr("detr", encoder__pre_norm=pre_norm).train()
    losses = model(batch_of(2, 1))
    torch.stack(list(losses.values())).sum().backward()
    assert not without_gradient(model)
    assert ("encoder.norm.weight" in model.state_dict()) == pre_norm


def test_any_backbone_with_named_maps_fits():
    """The seam: a backbone that is no ResNet."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import Backbone

    class Pyramid(Backbone):
        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 6, 8, 8), nn.Conv2d(6, 10, 2, 2)

        def forward(self, x):
            fine = self.fine(x)
            return {"fine": fine, "coarse": self.coarse(fine)}

        def output_shape(self):
            return {"fine": ShapeSpec(6, stride=8), "coarse": ShapeSpec(10, stride=16)}

    config = tiny_config("deformable_detr")
    config.in_features = ["fine", "coarse"]
    config.neck.in_channels = [6, 10]
    config.encoder.levels = 3
    del config.backbone
    built = {key: instantiate(value) for key, value in config.items() if key != "_target_"}
    model = DeformableDETR(backbone=Pyramid(), **built)
    losses = model.train()(batch_of(1, 2))
    torch.stack(list(losses.values())).sum().backward()
    assert not without_gradient(model)


def padded_detr(name: str) -> DETR:
    """Nothing random, and the same padding whether an image comes alone or not."""
    options = {"criterion__assigner__positive_fraction": 1.0} if name == "deta" else {}
    return tiny_detr(name, size_divisibility=128, **options).double().train()


def _rank_losses(rank: int, name: str) -> dict[str, torch.Tensor]:
    model = padded_detr(name)
    batch = batch_of(3, 1)[rank : rank + 1]
    losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for grad in grads.values():
        torch.distributed.all_reduce(grad)
        grad /= 2
    return grads


def _rank_denoising(rank: int, count: str) -> torch.Tensor:
    model = tiny_detr(
        "dn_dab_deformable_detr",
        query_source__denoising__box_noise=0.0,
        query_source__denoising__label_noise=0.0,
        criterion__denoising_count=count,
    ).train()
    return model(batch_of(3, 1)[rank : rank + 1])["loss_giou_dn"].detach()


@pytest.mark.parametrize("count, share", [("local", (1, 1)), ("ranks", (3 / 2, 1 / 2))])
def test_denoising_is_divided_by_the_objects_of_a_rank_or_of_all(count, share):
    """Three objects here and one there: two a rank."""
    both = run_ranks(_rank_denoising, count)
    alone = [_rank_denoising(rank, "local") for rank in range(2)]
    for rank in range(2):
        torch.testing.assert_close(both[rank], alone[rank] * share[rank], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", TWO_STAGE)
def test_proposals_may_leave_the_encoder_alone(name):
    for teaches in (True, False):
        model = tiny_detr(name, proposals__teaches_encoder=teaches).train()
        losses = model(batch_of(2, 3))
        sum(value for key, value in losses.items() if "_enc" in key).backward()
        assert model.proposals.boxes.layers[0].weight.grad.any()
        encoder = [p.grad is not None and p.grad.any() for p in model.encoder.parameters()]
        assert any(encoder) == teaches


def test_denoising_can_be_left_out():
    """Without targets there are no slots, and the table still gets its zero gradient."""
    model = tiny_detr("dn_dab_deformable_detr").train()
    batch = batch_of(2, 3)
    targets = model.targets(batch)
    encoded = model.encode(model.features(model.preprocess(batch)))
    queries = model.queries(encoded)
    losses, _ = model.losses(model.decode(encoded, queries), encoded, queries, targets)
    assert not any("_dn" in key for key in losses)
    torch.stack(list(losses.values())).sum().backward()
    assert not without_gradient(model)


@pytest.mark.parametrize("name", ["deformable_detr", "deformable_detr_two_stage", "deta"])
def test_two_ranks_learn_what_one_process_learns(name):
    """Losses are divided by the objects a rank, so the averaged gradient is that of all images."""
    both = run_ranks(_rank_losses, name)
    model = padded_detr(name)
    total = {}
    for image in batch_of(3, 1):  # one by one: padding must not differ
        losses = model([image])
        for key, value in losses.items():
            total[key] = total.get(key, 0) + value * max(1, len(image["instances"]))
    (torch.stack(list(total.values())).sum() / 4).backward()
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(both[0][key], parameter.grad, rtol=1e-5, atol=1e-9)


def test_features_know_sizes_and_padding():
    model = tiny_detr("detr").eval()
    images = ImageList(torch.zeros(2, 3, 64, 96), [(64, 40), (32, 96)])
    features = model.features(images)
    assert features.sizes.tolist() == [[64, 40], [32, 96]]
    assert (~features.mask).sum((1, 2)).tolist() == [64 * 40, 32 * 96]
    assert features.mask[0, 0, 40] and not features.mask[0, 63, 39]
