"""What is UP-DETR's own; what all box pretexts promise is in test_box_pretext.py."""

import pytest
import torch

from d2_unsupdet.errors import UserError
from tests.pretext.test_box_pretext import CALM, seen_by
from tests.pretext.tiny_boxes import batch_for, tiny_pretext


def test_queries_see_their_own_patch_only():
    model = tiny_pretext("up_detr", "detr", **CALM)
    seen = seen_by(model, batch_for("up_detr"))
    mask = seen["queries"].attention_mask()
    for q in range(12):
        for other in range(12):
            assert mask[q, other].item() == (q // 4 != other // 4)


@pytest.mark.parametrize("regions", [1, 2, 3, 4, 6, 12])
def test_no_query_is_without_partners(regions):
    model = tiny_pretext("up_detr", "conditional_detr", **CALM)
    seen = seen_by(model, batch_for("up_detr", regions=regions))
    assert not seen["queries"].attention_mask().all(1).any()
    assert all(torch.isfinite(value) for value in seen["losses"].values())


def test_a_query_carries_the_projected_feature_of_its_patch():
    model = tiny_pretext("up_detr", "detr", **CALM)
    batch = batch_for("up_detr")
    seen = seen_by(model, batch)
    for b, sample in enumerate(batch):
        feature = model.patch2query(model.embed(sample["crops"]))
        for q in range(12):
            expected = model.detector.query_source.embed.weight[q] + feature[q // 4]
            torch.testing.assert_close(seen["queries"].position[b, q], expected)


def test_a_tenth_of_the_queries_goes_without_a_patch():
    model = tiny_pretext("up_detr", "detr", denoising=False).train()
    torch.manual_seed(1)
    kept = model._keep(200, 100)
    assert kept.shape == (200, 100) and 0.89 < kept.float().mean() < 0.91
    # each query on its own, not whole images or columns
    assert kept.float().mean(0).max() < 1 and kept.float().mean(1).max() <= 1
    assert kept.float().mean(0).std() < 0.05
    plain, dropped = (
        seen_by(m, batch_for("up_detr"))["queries"]
        for m in (tiny_pretext("up_detr", "detr", **CALM), model)
    )
    bare = model.detector.query_source.embed.weight
    same = (dropped.position == bare).all(-1)
    assert same.any() and not (plain.position == bare).all(-1).any()
    assert torch.equal(dropped.position[~same], plain.position[~same])


def test_reconstruction_is_two_minus_two_cosines_of_the_matched():
    model = tiny_pretext("up_detr", "deformable_detr", **CALM, feature_weight=3.0)
    batch = batch_for("up_detr")
    matches = []
    criterion = model.detector.criterion

    def keep(module, inputs, output):
        matches.append(output[1])

    handle = criterion.register_forward_hook(keep)
    seen = seen_by(model, batch)
    handle.remove()
    for layer, suffix in ((0, "_0"), (1, "")):
        total = 0.0
        for b, sample in enumerate(batch):
            goal = model.embed(sample["crops"])
            for query, target in zip(*matches[0][layer].pair(b), strict=True):
                found = model.feature_head(seen["decoded"].hidden[layer, b, query])
                total += 2 - 2 * torch.cosine_similarity(found, goal[target], dim=0)
        expected = 3.0 * total / 6  # two images of three patches
        torch.testing.assert_close(seen["losses"][f"loss_feature{suffix}"], expected)


def test_reconstruction_can_be_left_out():
    model = tiny_pretext("up_detr", "detr", feature_weight=0.0)
    assert model.feature_head is None
    assert not any("feature" in name for name in model.train()(batch_for("up_detr")))


def test_only_the_last_layer_without_auxiliary_losses():
    model = tiny_pretext("up_detr", "detr", detector__criterion__auxiliary=False).train()
    losses = model(batch_for("up_detr"))
    assert set(losses) == {"loss_ce", "loss_bbox", "loss_giou", "loss_feature"}


def test_any_query_may_find_any_patch_unless_the_group_is_kept():
    seen = seen_by(tiny_pretext("up_detr", "detr", **CALM), batch_for("up_detr"))
    assert seen["allowed"] is None
    within = tiny_pretext("up_detr", "detr", **CALM, match_within_group=True)
    allowed = seen_by(within, batch_for("up_detr"))["allowed"]
    assert [row.nonzero().flatten().tolist() for row in allowed] == [[q // 4] for q in range(12)]
    overlap = seen_by(tiny_pretext("up_detr", "deta", **CALM), batch_for("up_detr"))["allowed"]
    assert torch.equal(overlap, allowed)


@pytest.mark.parametrize("name", ["deformable_detr_two_stage", "deta"])
def test_random_boxes_teach_the_encoder_nothing_about_objects(name):
    model = tiny_pretext("up_detr", name, **CALM)
    losses = seen_by(model, batch_for("up_detr"))["losses"]
    stage = sum(value for key, value in losses.items() if key.endswith("_enc"))
    stage.backward()
    assert model.detector.proposals.classes.weight.grad.any()
    assert all(p.grad is None or not p.grad.any() for p in model.detector.encoder.parameters())


def test_numbers_that_do_not_fit_are_said():
    model = tiny_pretext("up_detr", "detr").train()
    with pytest.raises(UserError, match="12 queries cannot be shared equally by 5 regions"):
        model(batch_for("up_detr", regions=5))
    batch = batch_for("up_detr")
    batch[0]["crops"], batch[0]["priors"] = batch[0]["crops"][:2], batch[0]["priors"][:2]
    with pytest.raises(UserError, match=r"one batch have \[2, 3\] regions.*set exactly="):
        model(batch)
    with pytest.raises(UserError, match=r"query_dropout=1.0 is a chance"):
        tiny_pretext("up_detr", "detr", query_dropout=1.0)
