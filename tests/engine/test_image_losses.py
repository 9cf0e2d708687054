"""A test image's own loss: the value a detector trains on, and nothing of the run moved."""

import copy
import random

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from d2_unsupdet.detectors import criterion as criterion_module
from d2_unsupdet.engine.digest import state_digest
from d2_unsupdet.engine.image_losses import image_losses, judging, told
from d2_unsupdet.engine.model_state import extra_state
from d2_unsupdet.metrics import drain_metrics, log_metric
from tests.detectors.test_rcnn import batch as rcnn_batch
from tests.detectors.test_rcnn import from_lazy
from tests.detectors.tiny import sample, tiny_detr


def position():
    """Everything that a run must find as it left it."""
    draws = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    return draws


@pytest.mark.parametrize("name", ["detr", "dn_dab_deformable_detr", "deta"])
def test_a_detr_is_judged_as_it_answers(name):
    model = tiny_detr(name, encoder__dropout=0.5).train()
    model.backbone.eval()  # a part that the run keeps in evaluation
    one = sample(96, 128, 3)
    with judging(model):
        found = image_losses(model, one, place=4)

    model.eval()
    with torch.no_grad():
        targets = model.targets([one])
        encoded = model.encode(model.features(model.preprocess([one])))
        queries = model.queries(encoded)
        expected, _ = model.losses(model.decode(encoded, queries), encoded, queries, targets)
    assert found == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-6)
    assert not any("_dn" in key for key in found)


@pytest.mark.parametrize(
    "name", ["retinanet", "deformable_detr", pytest.param("mask_rcnn_fpn", marks=pytest.mark.slow)]
)
def test_nothing_of_the_run_moves(name):
    detr = name == "deformable_detr"
    model = tiny_detr(name, encoder__dropout=0.5) if detr else from_lazy(name, 18)
    one = sample(96, 128, 2) if detr else rcnn_batch()[0]
    model.train()
    frozen = next(iter(model.children()))
    frozen.eval()
    before = copy.deepcopy(model.state_dict()), extra_state(model), position()
    modes = [module.training for module in model.modules()]
    drain_metrics()
    log_metric("seen", torch.tensor(2.0))
    with EventStorage(7) as storage:
        storage.put_scalar("kept", 1.0)
        with judging(model):
            first = image_losses(model, one, place=4)
            again = image_losses(model, one, place=4)
        assert storage.latest() == {"kept": (1.0, 7)}
    assert first == again and sum(first.values()) > 0
    assert state_digest(model.state_dict()) == state_digest(before[0])
    assert (extra_state(model), position()) == before[1:]
    assert [module.training for module in model.modules()] == modes
    assert drain_metrics() == {"seen": torch.tensor(2.0)}
    assert all(p.grad is None for p in model.parameters())


def test_norms_use_the_statistics_of_evaluation():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.noise = nn.BatchNorm2d(3), nn.Dropout(0.9)

        def forward(self, batch):
            assert self.training
            x = self.noise(self.norm(batch[0]["image"][None]))
            return {"loss": x.mean()}

    model = Model().train()
    with judging(model):
        losses = image_losses(model, {"image": torch.full((3, 4, 4), 5.0)}, place=0)
    # Running mean 0 and variance 1: the value comes through; its own statistics would give 0.
    assert losses["loss"] == pytest.approx(5.0, rel=1e-4)
    assert model.norm.num_batches_tracked == 0 and model.norm.training


def test_one_process_does_not_wait_for_the_others(monkeypatch):
    def wait(*_):
        raise AssertionError("the other processes do not take part")

    monkeypatch.setattr(criterion_module.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(criterion_module.dist, "all_reduce", wait)
    model = tiny_detr("deta")
    with judging(model):
        assert image_losses(model, sample(96, 128, 3), place=0)
    model.train()
    with pytest.raises(AssertionError, match="do not take part"):
        model([sample(96, 128, 3)])


def test_layers_are_told_together():
    losses = {"loss_ce": 1.0, "loss_ce_0": 0.5, "loss_ce_enc_0": 0.25, "loss_bbox": 3.0}
    losses |= {"loss_giou": 0.1, "loss_x": 0.05}
    assert told(losses) == "4.90 (bbox 3.00, ce 1.75, giou 0.10)"
