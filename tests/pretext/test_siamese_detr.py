"""What is Siamese DETR's own; what all box pretexts promise is in test_box_pretext.py."""

import copy

import pytest
import torch
import torch.nn.functional as F

from d2_unsupdet.errors import UserError
from tests.pretext.test_box_pretext import CALM, seen_by
from tests.pretext.tiny_boxes import REGIONS, batch_for, tiny_pretext


def test_each_view_is_decoded_with_the_regions_of_the_other():
    model = tiny_pretext("siamese_detr", "detr", **CALM)
    batch = batch_for("siamese_detr")
    first = seen_by(model, batch)
    other = copy.deepcopy(batch)
    other[1]["views"][0] = 255 - other[1]["views"][0]  # view 0 of image 1
    second = seen_by(model, other)
    same = (first["queries"].position == second["queries"].position).flatten(1).all(1)
    assert same.tolist() == [True, True, True, False]  # rows: view 0 of both, view 1 of both
    memory = (first["encoded"].memory == second["encoded"].memory).flatten(1).all(1)
    assert memory.tolist() == [True, False, True, True]


def test_targets_are_the_boxes_of_the_decoded_view():
    batch = batch_for("siamese_detr")
    seen = seen_by(tiny_pretext("siamese_detr", "detr", **CALM), batch)
    for v in range(2):
        for b, sample in enumerate(batch):
            height, width = sample["views"].shape[-2:]
            corner, end = sample["priors"][v].split(2, dim=1)
            scale = torch.tensor([width, height])
            target = seen["targets"][2 * v + b].boxes
            torch.testing.assert_close(target[:, :2], (corner + end) / 2 / scale)
            torch.testing.assert_close(target[:, 2:], (end - corner) / scale)


def test_all_queries_see_each_other():
    seen = seen_by(tiny_pretext("siamese_detr", "detr", **CALM), batch_for("siamese_detr"))
    assert seen["queries"].attention_mask() is None


@pytest.mark.parametrize("name", ["detr", "deformable_detr"])
def test_a_region_is_the_mean_of_the_maps_under_its_box(name):
    """Boxes whose edges lie between cells: the mean of RoIAlign is the mean of these cells."""
    model = tiny_pretext("siamese_detr", name, **CALM).eval()
    images = [{"image": torch.randint(0, 255, (3, 128, 128), dtype=torch.uint8)} for _ in range(2)]
    features = model.detector.features(model.detector.preprocess(images))
    for level, values in zip(model.detector.in_features, features.maps, strict=True):
        # constant over each quarter, so that interpolation cannot leak at a distance of a cell
        values.copy_(values.mean((2, 3), keepdim=True).expand_as(values))
        values[1] += {"res3": 1.0, "res4": 2.0, "res5": 3.0}[level]
    boxes = torch.tensor([[[32.0, 32, 96, 96], [0, 32, 64, 128]]] * 2)
    read = model._read(features, boxes)
    expected = torch.cat([m.mean((2, 3)) for m in features.maps], dim=1)
    torch.testing.assert_close(read, expected[:, None].expand(-1, 2, -1))


def test_a_region_reads_its_own_place():
    model = tiny_pretext("siamese_detr", "detr", **CALM).eval()
    images = [{"image": torch.zeros(3, 256, 256, dtype=torch.uint8)} for _ in range(2)]
    features = model.detector.features(model.detector.preprocess(images))
    cells = torch.arange(8.0)
    features.maps[0].copy_(cells.expand(2, 32, 8, 8))  # the value is the column
    left = torch.tensor([[[64.0, 64, 128, 192], [128, 64, 192, 192]]] * 2)
    columns = model._read(features, left)[0, :, 0]
    # columns 2, 3 and 4, 5, in continuous coordinates
    torch.testing.assert_close(columns, torch.tensor([2.5, 4.5]))
    model.aligned = False  # the original reads half a cell to the right
    torch.testing.assert_close(model._read(features, left)[0, :, 0], torch.tensor([3.0, 5.0]))


def test_global_discrimination_is_symmetric_and_stops_at_the_other_view():
    model = tiny_pretext("siamese_detr", "deformable_detr", **CALM, global_weight=5.0).train()
    seen = seen_by(model, batch_for("siamese_detr", 4))
    pooled = model.global_features(seen["encoded"])
    views = pooled[:4], pooled[4:]
    z = [model.projector(view) for view in views]
    p = [model.predictor(view) for view in z]
    pairs = list(zip(p, z[::-1], strict=True))
    wanted = sum((F.normalize(a) - F.normalize(b)).square().sum(1).mean() for a, b in pairs)
    torch.testing.assert_close(seen["losses"]["loss_global"], 5.0 * wanted / 2)
    last = model.projector[-1].weight
    (through,) = torch.autograd.grad(seen["losses"]["loss_global"], last)
    stopped = sum(
        2 - 2 * F.cosine_similarity(a, b.detach()) for a, b in zip(p, z[::-1], strict=True)
    ).mean()
    (expected,) = torch.autograd.grad(5.0 * stopped / 2, last)
    torch.testing.assert_close(through, expected)


def test_padding_is_no_part_of_a_view():
    model = tiny_pretext("siamese_detr", "deformable_detr", **CALM).eval()
    encoded = seen_by(model, batch_for("siamese_detr"))["encoded"]
    assert encoded.mask.any()
    noised = copy.copy(encoded)
    object.__setattr__(noised, "memory", encoded.memory.masked_fill(encoded.mask[..., None], 99.0))
    found = model.global_features(encoded)
    assert torch.equal(model.global_features(noised), found)
    assert found.shape[1] == 3 * 64  # without the level that the neck adds
    row, start, parts = 1, 0, []
    for h, w in encoded.shapes[:3]:
        part = slice(start, start + h * w)
        parts.append(encoded.memory[row, part][~encoded.mask[row, part]].mean(0))
        start += h * w
    torch.testing.assert_close(found[row], torch.cat(parts))
    model.ignore_padding = False
    assert not torch.equal(model.global_features(noised), model.global_features(encoded))


def test_boxes_are_shaken_for_reading_only():
    calm, shaken = (
        tiny_pretext("siamese_detr", "detr", denoising=False, jitter=j) for j in (0.0, 0.1)
    )
    batch = batch_for("siamese_detr")
    first, second = seen_by(calm, batch), seen_by(shaken, batch)
    assert not torch.equal(first["queries"].position, second["queries"].position)
    for a, b in zip(first["targets"], second["targets"], strict=True):
        assert torch.equal(a.boxes, b.boxes)


def test_every_box_has_noise_of_its_own(monkeypatch):
    seen = []

    def jittered(boxes, sizes, noise, *, amount):
        seen.append((noise, amount))
        return boxes

    monkeypatch.setattr("d2_unsupdet.pretext.siamese_detr.jitter_boxes", jittered)
    model = tiny_pretext("siamese_detr", "detr", jitter=0.07).train()
    model(batch_for("siamese_detr"))
    ((noise, amount),) = seen
    assert amount == 0.07 and noise.shape == (4, REGIONS, 4)
    assert len(noise.unique()) == noise.numel()


def test_overlap_assignment_keeps_to_the_group():
    batch = batch_for("siamese_detr")
    allowed = seen_by(tiny_pretext("siamese_detr", "deta", **CALM), batch)["allowed"]
    assert [row.nonzero().flatten().tolist() for row in allowed] == [[q // 4] for q in range(12)]
    assert seen_by(tiny_pretext("siamese_detr", "detr", **CALM), batch)["allowed"] is None


def test_what_a_query_describes_is_the_crop_of_the_other_view():
    model = tiny_pretext("siamese_detr", "detr", **CALM)
    goals = []
    feature_losses = model.feature_losses
    model.feature_losses = lambda *x: goals.append(x[3]) or feature_losses(*x)
    batch = batch_for("siamese_detr")
    seen_by(model, batch)
    rows = goals[0].unflatten(0, (4, REGIONS))
    for v in range(2):
        for b, sample in enumerate(batch):
            torch.testing.assert_close(rows[2 * v + b], model.embed(sample["crops"][1 - v]))


def test_both_discriminations_can_be_left_out():
    model = tiny_pretext("siamese_detr", "detr", global_weight=0.0, feature_weight=0.0).train()
    assert model.projector is None and model.predictor is None and model.feature_head is None
    names = set(model(batch_for("siamese_detr")))
    assert names == {f"loss_{k}{s}" for k in ("ce", "bbox", "giou") for s in ("", "_0")}


def test_a_batch_of_one_image_is_refused_unless_nothing_normalises_over_it():
    with pytest.raises(UserError, match="one image a process.*model.global_weight=0"):
        tiny_pretext("siamese_detr", "detr").train()(batch_for("siamese_detr", 1))
    free = tiny_pretext("siamese_detr", "detr", global_weight=0.0).train()
    assert all(torch.isfinite(v) for v in free(batch_for("siamese_detr", 1)).values())
