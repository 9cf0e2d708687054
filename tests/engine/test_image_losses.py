"""A test image's own loss: the value a detector trains on, and nothing of the run moved."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.meta_arch import SemanticSegmentor
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from d2_unsupdet.detectors import DilatedFCNHead
from d2_unsupdet.engine import sync_batch_norm
from d2_unsupdet.engine.digest import state_digest
from d2_unsupdet.engine.image_losses import image_losses, judging, told
from d2_unsupdet.engine.model_state import extra_state
from d2_unsupdet.metrics import drain_metrics, log_metric
from tests.detectors.test_rcnn import batch as rcnn_batch
from tests.detectors.test_rcnn import from_lazy
from tests.detectors.tiny import sample, tiny_detr
from tests.ranks import run_ranks


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
    "name, begun",
    [
        ("retinanet", True),  # has its count of positives, which must not move
        ("retinanet", False),  # has none yet, and must get none
        ("deformable_detr", False),
        pytest.param("mask_rcnn_fpn", False, marks=pytest.mark.slow),
    ],
)
def test_nothing_of_the_run_moves(name, begun):
    detr = name == "deformable_detr"
    model = tiny_detr(name, encoder__dropout=0.5) if detr else from_lazy(name, 18)
    one = sample(96, 128, 2) if detr else rcnn_batch()[0]
    model.train()
    if begun:
        with torch.no_grad(), EventStorage(0):
            model([one])
    frozen = next(iter(model.children()))
    frozen.eval()
    assert bool(extra_state(model)) == begun
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


def segmentor():
    """A dilated FCN of real parts, small."""
    torch.manual_seed(0)
    stage = ResNet.make_stage(
        BasicBlock, num_blocks=1, in_channels=8, out_channels=8, stride_per_block=[1], norm="BN"
    )
    return SemanticSegmentor(
        backbone=ResNet(BasicStem(out_channels=8, norm="BN"), [stage], out_features=["res2"]),
        sem_seg_head=DilatedFCNHead(
            in_channels=8, num_classes=3, in_feature="res2", stride=4, channels=8, norm="SyncBN"
        ),
        pixel_mean=[0.0] * 3,
        pixel_std=[64.0] * 3,
    )


def label_map():
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator),
        "sem_seg": torch.randint(0, 3, (32, 32), dtype=torch.uint8, generator=generator),
    }


@pytest.mark.parametrize(
    "make, one", [(lambda: tiny_detr("deta"), sample(96, 128, 3)), (segmentor, label_map())]
)
def test_one_process_does_not_wait_for_the_others(monkeypatch, make, one):
    def wait(*_, **__):
        raise AssertionError("the other processes do not take part")

    model = make().train()
    # A process group of two that nobody else has joined.
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", wait)
    monkeypatch.setattr(sync_batch_norm.dist, "get_world_size", lambda *_: 2)
    with judging(model):
        assert image_losses(model, one, place=0)
    with pytest.raises(AssertionError, match="do not take part"), EventStorage(0):
        model([one])


def _first_rank_judges(rank):
    """Only rank 0 does, as the pictures at the end of a run; here, with rank < 0, no ranks are."""
    model = segmentor().train()
    if rank > 0:
        return {}
    with judging(model):
        return image_losses(model, label_map(), place=0)


@pytest.mark.slow
def test_a_run_of_two_processes_does_not_hang_at_its_pictures():
    judged, idle = run_ranks(_first_rank_judges)
    assert judged == pytest.approx(_first_rank_judges(-1)) and idle == {}


def test_layers_are_told_together():
    losses = {"loss_ce": 1.0, "loss_ce_0": 0.5, "loss_ce_enc_0": 0.25, "loss_bbox": 3.0}
    losses |= {"loss_giou": 0.1, "loss_x": 0.05}
    assert told(losses) == "4.90 (bbox 3.00, ce 1.75, giou 0.10)"
