"""A load either does what it says or stops the run."""

import copy
from functools import cache

import pytest
import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from torch import nn

from d2_unsupdet.checkpoint import convert, export_weights, load_weights, match_names
from d2_unsupdet.errors import UserError
from tests.checkpoint.detectors import detector
from tests.checkpoint.layouts import LAYOUTS, torchvision_net, torchvision_state


@cache
def _built(kind, depth, norm, classes):
    return detector(kind, depth=depth, norm=norm, classes=classes)


def fresh(kind="fpn", depth=18, norm="BN", classes=3):
    return copy.deepcopy(_built(kind, depth, norm, classes))


def backbone_of(model, prefix):
    found = model.state_dict()
    return {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "detectron2"])
def test_every_layout_fills_the_backbone_of_fpn(layout, norm):
    hub, _ = convert(torchvision_state())
    model = fresh(norm=norm)
    report = load_weights(model, LAYOUTS[layout]() if layout in LAYOUTS else hub)
    found = backbone_of(model, "backbone.bottom_up.")
    assert all(torch.equal(found[n], hub[n]) for n in found)
    assert report.full_coverage
    assert report.source_share == 1
    assert report.layout == layout
    assert len(report.matched) == 100
    assert all(not name.startswith("backbone.bottom_up") for name in report.new)


def test_one_file_fits_c4_with_its_extra_norm(tmp_path):
    hub, _ = convert(torchvision_state(50))
    model = fresh("c4", depth=50)
    model.roi_heads.res5.add_module("norm", nn.BatchNorm2d(2048))
    path = export_weights(hub, tmp_path / "w")[0]
    report = load_weights(model, path)
    assert report.full_coverage
    assert torch.equal(model.roi_heads.res5[0].conv1.weight, hub["res5.0.conv1.weight"])
    assert torch.equal(model.backbone.res4[0].conv1.weight, hub["res4.0.conv1.weight"])
    assert {n for n in report.new if "res5" in n} == {
        f"roi_heads.res5.norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")
    }
    text = str(report)
    assert "(detectron2): 265 tensors, full coverage" in text
    assert "backbone.res4" in text
    assert "new" in text


def test_a_whole_detector_loads_by_exact_names(tmp_path):
    model, other = fresh(), fresh()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    torch.save({"model": model.state_dict(), "iteration": 1}, tmp_path / "model_final.pth")
    report = load_weights(other, tmp_path / "model_final.pth", allow_missing=())
    assert report.layout == "same names"
    assert report.model_share == report.source_share == 1
    assert not report.new
    theirs = model.state_dict()
    assert all(torch.equal(t, theirs[n]) for n, t in other.state_dict().items())


def test_the_resnet_of_a_whole_detector_fits_another_prefix():
    hub, _ = convert(torchvision_state())
    source = {f"backbone.bottom_up.{n}": t for n, t in hub.items()}
    bare = torch.nn.Module()
    bare.backbone = fresh().backbone.bottom_up
    report = load_weights(bare, source)
    assert report.full_coverage
    assert torch.equal(bare.backbone.stem.conv1.weight, hub["stem.conv1.weight"])


def test_another_class_count_needs_permission_and_is_listed():
    source = fresh(classes=7).state_dict()
    model = fresh(classes=3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"cls_score.weight is \(8, 16\) in the file, \(4, 16\)"):
        load_weights(model, source)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    report = load_weights(model, source, allow_mismatch=["roi_heads.box_predictor.*"])
    assert "(8, 16) in the file, (4, 16) in the model" in str(report)
    assert sorted(report.dropped) == [
        f"roi_heads.box_predictor.{n}"
        for n in ("bbox_pred.bias", "bbox_pred.weight", "cls_score.bias", "cls_score.weight")
    ]
    name = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(model.state_dict()[name], before[name])
    assert not report.unused
    assert not report.full_coverage
    with pytest.raises(UserError, match="does not fit"):
        load_weights(model, source, allow_mismatch=["roi_heads.mask_head.*"])


@pytest.mark.parametrize(("file", "model"), [(18, 34), (34, 18)])
def test_a_wrong_depth_names_the_fix(file, model):
    net = fresh(depth=model)
    before = copy.deepcopy(net.state_dict())
    expected = f"ResNet-{file} but the model has a ResNet-{model}; set the model's depth to {file}"
    with pytest.raises(UserError, match=expected):
        load_weights(net, torchvision_state(file))
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_a_shallower_detector_of_the_same_names_is_refused():
    # every name and shape of a ResNet-18 exists in a ResNet-34: coverage of the file is no proof
    hub, _ = convert(torchvision_state(18))
    names = {f"backbone.bottom_up.{n}": t for n, t in hub.items()}
    with pytest.raises(UserError, match="holds a ResNet-18 but the model has a ResNet-34"):
        load_weights(fresh(depth=34), names)


def test_a_resnet_of_another_shape_than_the_papers_goes_around(tmp_path):
    def tiny():
        stages = [
            ResNet.make_stage(
                BasicBlock, 1, in_channels=8, out_channels=8, stride_per_block=[1], norm="BN"
            )
            for _ in range(2)
        ]
        return ResNet(BasicStem(out_channels=8, norm="BN"), stages, out_features=["res3"])

    net, model = tiny(), nn.ModuleDict({"backbone": tiny(), "head": nn.Linear(8, 3)})
    for path in export_weights(net.state_dict(), tmp_path / "w"):
        report = load_weights(model, path)
        assert report.full_coverage
        assert sorted(report.new) == ["head.bias", "head.weight"]
    assert torch.equal(model["backbone"].stem.conv1.weight, net.stem.conv1.weight)


def test_a_missing_stage_stops_the_run():
    hub, _ = convert(torchvision_state())
    part = {n: t for n, t in hub.items() if not n.startswith("res5.1")}
    with pytest.raises(UserError, match=r"lacks 10 tensors of the model \(backbone.*res5.1"):
        load_weights(fresh(), part)
    report = load_weights(fresh(), part, allow_missing=["*"])
    assert len(report.new) > 10


def test_allow_missing_is_strict_about_the_rest():
    hub, _ = convert(torchvision_state())
    heads = ["proposal_generator.*", "roi_heads.*"]
    with pytest.raises(UserError, match=r"backbone\.fpn_lateral2.*allow_missing"):
        load_weights(fresh(), hub, allow_missing=heads)
    load_weights(fresh(), hub, allow_missing=[*heads, "backbone.fpn_*"])


def test_low_coverage_of_the_file_stops_the_run():
    hub, _ = convert(torchvision_state())
    source = {**hub, "transformer.weight": torch.zeros(2000, 2000)}
    with pytest.raises(UserError, match=r"Only 7\d% .* min_coverage=0.9 .*transformer.weight"):
        load_weights(fresh(), source)
    report = load_weights(fresh(), source, min_coverage=0.5)
    assert list(report.unused) == ["transformer.weight"]
    assert "unused      1 tensors   4.0 M  transformer" in str(report)


def test_nothing_that_fits_stops_the_run():
    with pytest.raises(UserError, match=r"Nothing of .* fits the model: the file has blocks.0"):
        load_weights(fresh(), {"blocks.0.attn.weight": torch.ones(3)})


def test_a_network_with_two_backbones_is_ambiguous():
    hub, _ = convert(torchvision_state())
    model = nn.ModuleDict({"a": fresh().backbone.bottom_up, "b": fresh().backbone.bottom_up})
    with pytest.raises(UserError, match=r"stem.conv1.weight fits more than one .*a.stem.*b.stem"):
        load_weights(model, hub)


def test_names_of_torchvision_models_are_exact_in_torchvision_models():
    net = copy.deepcopy(torchvision_net())
    with torch.no_grad():
        net.conv1.weight.zero_()
    report = load_weights(net, torchvision_state())
    assert report.layout == "same names"
    assert torch.equal(net.conv1.weight, torchvision_net().conv1.weight)


def test_counters_follow_when_both_sides_keep_them():
    hub, _ = convert(torchvision_state())
    hub = {n: torch.tensor(9) if n.endswith("_tracked") else t for n, t in hub.items()}
    model = fresh()
    load_weights(model, hub)
    assert model.backbone.bottom_up.stem.conv1.norm.num_batches_tracked == 9
    without = {n: t for n, t in hub.items() if not n.endswith("_tracked")}
    assert load_weights(fresh(), without).full_coverage


@pytest.mark.parametrize(
    ("model", "source", "expected"),
    [
        (["a.b.c"], ["a.b.c", "b.c", "c"], {"a.b.c": "a.b.c"}),
        (["x.a.b.c"], ["b.c", "a.b.c", "c"], {"x.a.b.c": "a.b.c"}),
        (["x.ab.c"], ["b.c"], {}),
        (["c", "x.c"], ["c"], {"c": "c"}),
        (["x.res4.0.w", "h.res5.0.w"], ["res4.0.w", "res5.0.w"],
         {"x.res4.0.w": "res4.0.w", "h.res5.0.w": "res5.0.w"}),
    ],
)  # fmt: skip
def test_match_names_takes_the_longest_dotted_suffix(model, source, expected):
    assert match_names(model, source) == expected
    slow = {}
    for name in model:  # the same by comparing everything with everything
        fitting = [s for s in source if name == s or name.endswith("." + s)]
        if fitting and not (name not in source and max(fitting, key=len) in model):
            slow[name] = max(fitting, key=len)
    assert slow == expected


def test_agrees_with_detectron2s_own_matching():
    from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

    hub, _ = convert(torchvision_state())
    target = fresh().state_dict()
    numbered = {n: torch.full_like(t, i, dtype=torch.float) for i, (n, t) in enumerate(hub.items())}
    theirs = align_and_update_state_dicts(target, numbered, c2_conversion=False)
    theirs = {n: int(t.flatten()[0]) for n, t in theirs.items() if n in target}
    order = list(numbered)
    assert {n: order.index(s) for n, s in match_names(target, hub).items()} == theirs
