"""JoinDet is DETReg with other boxes; the recipes' defaults; its variants as overrides."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.priors.box_smooth import BoxSmooth, DirectUpdate, NmsUpdate
from d2_unsupdet.priors.eigen_attention import EigenAttention
from d2_unsupdet.priors.found import Found
from tests.pretext.tiny_boxes import batch_for, tiny_pretext

RECIPES = "configs/pretrain/join_det"


def test_on_the_same_priors_its_losses_are_detregs():
    """DETR has a softmax in both; only the boxes differ, and here they do not."""
    pretexts = [tiny_pretext(name, "detr", denoising=False) for name in ("join_det", "detreg")]
    pretexts[1].load_state_dict(pretexts[0].state_dict())
    batch = batch_for("join_det")
    losses, expected = (pretext.train()(batch) for pretext in pretexts)
    assert losses.keys() == expected.keys() and "loss_embedding" in losses
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


@pytest.mark.parametrize("name", ["deformable_detr", "deta"])
def test_every_detector_learns_object_or_nothing_by_softmax(name):
    pretext = tiny_pretext("join_det", name)
    assert pretext.detector.heads.background
    assert pretext.detector.criterion.classification.no_object == 0.1


def test_first_priors_are_capped_and_ranked_and_say_where_they_are_from():
    pretext = tiny_pretext("join_det", "deformable_detr", prior_update__most=2)
    boxes = np.array([[0, 0, 0.2, 0.2], [0.5, 0.5, 1, 1], [0, 0.6, 0.3, 0.9]], np.float32)
    found = pretext.given_priors(Found(boxes, np.array([10, 90, 50], np.float32)))
    np.testing.assert_array_equal(found.boxes, boxes[[1, 2]])
    np.testing.assert_array_equal(found.scores, [1, 0.5])  # comparable with a detector's
    np.testing.assert_array_equal(found.kinds, [2, 2])


@pytest.mark.parametrize("momentum", [0.0, 0.45, 1.0])
def test_no_rule_touches_the_first_priors(momentum):
    """With a momentum of 1 it would delete them, with any other average boxes that are nested."""
    pretext = tiny_pretext("join_det", "deformable_detr", prior_update__momentum=momentum)
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.45], [0.5, 0.5, 1, 1]], np.float32)
    first = Found(boxes, np.ones(3, np.float32), np.zeros(3, np.uint8))
    pretext.priors.look_first = lambda *_: lambda: first
    np.testing.assert_array_equal(pretext.initial_priors({}).boxes, boxes)
    np.testing.assert_array_equal(pretext.given_priors(first).boxes, boxes)


def test_a_refresh_changes_neither_weights_nor_random_numbers():
    pretext = tiny_pretext("join_det", "dn_dab_deformable_detr", priors__stride=16).eval()
    before = {name: value.clone() for name, value in pretext.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    sample = batch_for("join_det", 1)[0]
    first = pretext.refreshed_priors(sample, pretext.initial_priors(sample))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(before[n], v) for n, v in pretext.state_dict().items())
    again = pretext.refreshed_priors(sample, pretext.initial_priors(sample))
    np.testing.assert_array_equal(first.boxes, again.boxes)


def test_papers_numbers_are_the_defaults():
    config = load_config(f"{RECIPES}/coco_deformable_detr_r50_single_scale_50ep.py")
    assert config.train.refresh.period == "10 epochs" and config.train.max_iter == "50 epochs"
    update = instantiate(config.model.prior_update)
    assert isinstance(update, BoxSmooth) and (update.momentum, update.iou) == (0.45, 0.55)
    assert update.most == config.dataloader.train.mapper.count == 30
    found = instantiate(config.model.priors)
    assert found.sources == {"regions", "instances"} and found.overlap == 0.5
    assert found.attention.graph == EigenAttention().graph
    assert config.model.detector.backbone.freeze_at == 5
    assert load_config(f"{RECIPES}/imagenet_deformable_detr_r50_5ep.py").train.refresh.period == (
        "1 epochs"
    )


@pytest.mark.parametrize("update", [DirectUpdate, NmsUpdate])
def test_the_tables_are_overrides(update):
    config = load_config(
        f"{RECIPES}/coco_deformable_detr_r50_single_scale_50ep.py",
        [
            f"model.prior_update._target_=d2_unsupdet.priors.{update.__name__}",
            "model.priors.sources=[instances]",
            "train.refresh.period=0",
            "train.refresh.start=priors/selective_search",
        ],
    )
    assert isinstance(instantiate(config.model.prior_update), update)
    assert instantiate(config.model.priors).sources == {"instances"}
