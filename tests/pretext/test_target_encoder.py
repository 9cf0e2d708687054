"""The frozen embeddings of crops that box pretexts predict."""

import pytest
import torch
from detectron2.modeling.backbone import Backbone

from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext import target_encoder
from d2_unsupdet.pretext.target_encoder import Teacher, embed_crops, embedding_width, is_frozen
from tests.detectors.tiny import WIDTHS, tiny_detr


def backbone(**options):
    return tiny_detr("deformable_detr", **options).backbone


def test_an_embedding_is_the_mean_of_each_level():
    net, crops = backbone(), torch.randn(5, 3, 64, 64)
    maps = net(crops)
    expected = torch.cat([maps[m].mean((2, 3)) for m in ("res3", "res5")], dim=1)
    torch.testing.assert_close(embed_crops(net, crops, ["res3", "res5"]), expected)
    assert embedding_width(net, ["res3", "res5"]) == WIDTHS["res3"] + WIDTHS["res5"]


def test_no_stage_behind_the_last_level_is_computed():
    net = backbone()
    for stage in net.stages[2:]:
        stage.forward = None
    assert embed_crops(net, torch.randn(2, 3, 64, 64), ["res3"]).shape == (2, WIDTHS["res3"])


def test_a_level_that_the_detector_does_not_read_can_be_an_embedding():
    net = tiny_detr("detr").backbone  # its output is res5 alone
    assert embed_crops(net, torch.randn(2, 3, 64, 64), ["res3"]).shape == (2, WIDTHS["res3"])
    with pytest.raises(UserError, match="no output 'res7'"):
        embedding_width(net, ["res7"])


def test_parts_and_no_crops_give_the_same_rows(monkeypatch):
    net, crops = backbone(), torch.randn(5, 3, 32, 32)
    whole = embed_crops(net, crops, ["res3"])
    monkeypatch.setattr(target_encoder, "CROPS", 2)
    torch.testing.assert_close(embed_crops(net, crops, ["res3"]), whole)
    assert embed_crops(net, crops[:0], ["res3"]).shape == (0, WIDTHS["res3"])
    assert not whole.requires_grad


def test_crops_have_no_padding_whatever_was_seen_before():
    net, crops = backbone(backbone__mask_padding=True), torch.randn(2, 3, 64, 64)
    net(torch.randn(3, 3, 128, 96), [(64, 96), (128, 50), (30, 30)])
    maps = backbone()(crops)
    torch.testing.assert_close(embed_crops(net, crops, ["res5"]), maps["res5"].mean((2, 3)))


def test_a_teacher_never_trains():
    net = backbone(backbone__freeze_at=0)
    teacher = Teacher(net).train()
    assert not teacher.training and not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert any(p.requires_grad for p in net.parameters())
    pairs = zip(net.parameters(), teacher.backbone.parameters(), strict=True)
    assert all(a is not b and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("freeze_at", "frozen"), [(0, False), (2, False), (5, True)])
def test_frozen_means_all_of_it(freeze_at, frozen):
    assert is_frozen(backbone(backbone__freeze_at=freeze_at)) is frozen


def test_moving_statistics_are_not_frozen():
    net = backbone(backbone__freeze_at=5)
    net.extra = torch.nn.BatchNorm2d(3).requires_grad_(False)
    assert not is_frozen(net)


def test_a_backbone_without_stages_gives_its_own_outputs():
    class Plain(Backbone):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 7, 3)
            self._out_features = ["out"]
            self._out_feature_channels, self._out_feature_strides = {"out": 7}, {"out": 1}

        def forward(self, x):
            return {"out": self.conv(x)}

    net, crops = Plain(), torch.randn(2, 3, 8, 8)
    assert embedding_width(net, ["out"]) == 7
    torch.testing.assert_close(embed_crops(net, crops, ["out"]), net.conv(crops).mean((2, 3)))
