"""What is DETReg's own; what all box pretexts promise is in test_box_pretext.py."""

import pytest
import torch

from d2_unsupdet.errors import UserError
from tests.pretext.test_box_pretext import CALM, seen_by
from tests.pretext.tiny_boxes import batch_for, tiny_pretext


def test_queries_are_those_of_the_detector():
    model = tiny_pretext("detreg", "deformable_detr", **CALM)
    seen = seen_by(model, batch_for("detreg"))
    plain = model.detector.queries(seen["encoded"])
    assert torch.equal(seen["queries"].content, plain.content)
    assert torch.equal(seen["queries"].position, plain.position)
    assert seen["queries"].attention_mask() is None and seen["allowed"] is None


@pytest.mark.parametrize("name", ["detr", "deformable_detr_refine", "deta"])
def test_the_embedding_loss_is_a_mean_over_matched_pairs_of_the_last_layer(name):
    model = tiny_pretext("detreg", name, **CALM, embedding_weight=2.0)
    matches = []
    handle = model.detector.criterion.register_forward_hook(lambda *x: matches.append(x[2][1]))
    batch = batch_for("detreg")
    seen = seen_by(model, batch)
    handle.remove()
    rows = []
    for b, sample in enumerate(batch):
        goal = model.embed(sample["crops"])
        for query, target in zip(*matches[0][-1].pair(b), strict=True):
            found = model.embed_head(seen["decoded"].hidden[-1, b, query])
            rows.append((found - goal[target]).abs().mean())
    assert len(rows) >= 3
    torch.testing.assert_close(seen["losses"]["loss_embedding"], 2 * torch.stack(rows).mean())


def test_an_embedding_has_the_channels_of_res3():
    model = tiny_pretext("detreg", "detr")
    assert model.embedding_dim == 16 and model.embed_head.layers[-1].out_features == 16


def test_images_without_a_box_are_no_error():
    model = tiny_pretext("detreg", "deformable_detr").train()
    batch = batch_for("detreg")
    for sample in batch:
        for key in ("priors", "crops", "prior_scores"):
            sample[key] = sample[key][:0]
    losses = model(batch)
    assert losses["loss_embedding"] == 0 and all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.embed_head.parameters())  # all ranks wait for it


def test_without_an_embedding_no_crop_is_needed():
    model = tiny_pretext("detreg", "detr", embedding_weight=0.0).train()
    batch = batch_for("detreg")
    for sample in batch:
        del sample["crops"]
    assert model.embed_head is None and "loss_embedding" not in model(batch)
    other = tiny_pretext("detreg", "detr", embedding_weight=1.0).train()
    with pytest.raises(UserError, match="'crops': .*crop_size=128.* model.embedding_weight=0"):
        other(batch)


@pytest.mark.parametrize(("name", "background"), [("detr", True), ("conditional_detr", False)])
def test_the_class_loss_is_of_the_detectors_kind(name, background):
    model = tiny_pretext("detreg", name)
    assert model.detector.heads.background is background
    assert model.detector.heads.classes[0].out_features == 1 + background
