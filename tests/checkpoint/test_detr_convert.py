"""Official files of the DETR family: names there and back, class heads, parameter counts."""

import argparse
import json
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from d2_unsupdet.checkpoint import convert, detect, load_weights, read_weights
from d2_unsupdet.checkpoint.backbone import bare_state
from d2_unsupdet.checkpoint.class_heads import COCO80
from d2_unsupdet.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden"
TOOL = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"
CONFIGS = Path(__file__).parents[2] / "configs" / "common" / "models"
DETECTORS = {  # golden file: layout, parameters by the specification of 91- or 92-way heads
    "detr_r50": ("detr", 41_524_768),
    "conditional_detr_r50": ("conditional_detr", 43_418_401),
    "deformable_detr_r50_single_scale": ("deformable_detr", 34_066_593),
    "deformable_detr_r50": ("deformable_detr", 40_069_665),
    "deformable_detr_r50_box_refine": ("deformable_detr", 40_849_660),
    "deformable_detr_r50_two_stage": ("deformable_detr", 41_181_529),
    "dab_deformable_detr_r50": ("dab_deformable_detr", 47_405_994),
    "dn_dab_deformable_detr_r50": ("dn_dab_deformable_detr", 47_429_154),
    "deta_r50": ("deta", 48_438_489),
}
NORM = ("norm.weight", "norm.bias", "running_mean", "running_var")


@cache
def _manifest(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def official(name, seed=0):
    """Every tensor another number under the official names; heads and tables differ by row."""
    manifest, generator = _manifest(name), torch.Generator().manual_seed(seed)
    state = {}
    for key, entry in manifest["state_dict"].items():
        shape = entry["shape"]
        rows = shape if shape[0] < 100 else [1] * len(shape)
        state[key] = torch.randn(rows, generator=generator).expand(shape)
    for group in manifest["alias_groups"]:
        for key in group:
            state[key] = state[group[0]]
    return state


@pytest.mark.parametrize("name", DETECTORS)
def test_there_and_back_is_lossless(name):
    layout, parameters = DETECTORS[name]
    state = official(name)
    assert detect(state).name == layout
    hub, report = convert(state)
    assert report.depth == 50
    assert set(report.names) | set(report.dropped) == set(state)
    frozen = sum(t.numel() for n, t in hub.items() if n.startswith("backbone") and n.endswith(NORM))
    assert sum(t.numel() for t in hub.values()) - frozen == parameters
    back, _ = convert(hub, target=layout)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", DETECTORS)
def test_prefixes_change_nothing(name):
    state = official(name)
    expected, _ = convert(state)
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    wrapped |= {"module.detr.mask_head.lay1.weight": torch.ones(1)} if name == "detr_r50" else {}
    wrapped |= {"module.transformer.total_ops": torch.ones(1)}
    found, report = convert(wrapped)
    assert set(found) == set(expected)
    assert report.dropped["module.transformer.total_ops"] == "counters of a profiler"


def test_segmentation_files_hold_a_detector():
    state = {f"detr.{key}": tensor for key, tensor in official("detr_r50").items()}
    state |= {"bbox_attention.q_linear.weight": torch.ones(1), "mask_head.gn1.bias": torch.ones(1)}
    found, report = convert(state)
    assert set(found) == set(convert(official("detr_r50"))[0])
    assert list(report.dropped.values()) == ["segmentation head"] * 2


def test_files_of_the_official_wrapper_for_detectron2():
    hub, _ = convert(official("detr_r50"))
    names = {n: f"detr.backbone.0.{n}" for n in hub if n.startswith("backbone.")}
    state = {names[n]: t for n, t in hub.items() if n in names} | {
        f"detr.{n}": t for n, t in official("detr_r50").items() if not n.startswith("backbone")
    }
    state["criterion.empty_weight"] = torch.ones(81)
    found, report = convert(state)
    assert report.source == "detr"
    assert report.dropped == {"criterion.empty_weight": "loss weights"}
    assert set(found) == set(hub)


def test_the_norm_behind_self_attention_has_another_number_in_deformable_detectors():
    for name, number in (("detr_r50", 1), ("conditional_detr_r50", 1), ("deta_r50", 2)):
        state = official(name)
        key = f"transformer.decoder.layers.3.norm{number}.weight"
        assert torch.equal(convert(state)[0]["decoder.layers.3.norm_self.weight"], state[key])


def test_91_rows_become_80_and_objectness_is_not_remapped():
    state = official("deta_r50")
    hub, report = convert(state, classes="coco80")
    rows = list(COCO80)
    assert len(rows) == 80 and rows[11] == 13 and rows[-1] == 90
    expected = state["class_embed.3.weight"][rows]
    assert torch.equal(hub["heads.classes.3.weight"], expected)
    assert torch.equal(hub["proposals.classes.weight"], state["class_embed.6.weight"][:1])
    assert "80 of 91 rows by classes=coco80" in str(report)
    assert "row 0 of 91, the objectness" in str(report)


def test_no_object_stays_the_last_row():
    state = official("detr_r50")
    hub, _ = convert(state, classes="coco80")
    assert torch.equal(hub["heads.classes.0.bias"], state["class_embed.bias"][[*COCO80, 91]])
    state = official("dn_dab_deformable_detr_r50")
    hub, _ = convert(state, classes="coco80")
    table = hub["query_source.denoising.labels.weight"]
    assert torch.equal(table, state["label_enc.weight"][[*COCO80, 91]])
    assert len(hub["heads.classes.0.bias"]) == 80


def test_any_class_map(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("[3, 1, 90]")
    for name, last in (("detr_r50", [91]), ("deformable_detr_r50", [])):
        state = official(name)
        key = "class_embed.weight" if last else "class_embed.0.weight"
        found = convert(state, classes=str(path))[0]["heads.classes.0.weight"]
        assert torch.equal(found, state[key][[3, 1, 90, *last]])
    path.write_text("[91]")
    with pytest.raises(UserError, match="for 92 classes, but heads.classes.0.* has 91"):
        convert(official("deformable_detr_r50"), classes=str(path))
    path.write_text("{}")
    with pytest.raises(UserError, match="must hold a list of row numbers"):
        convert(official("deformable_detr_r50"), classes=str(path))
    with pytest.raises(UserError, match="write keep, coco80, drop or the path"):
        convert(official("deformable_detr_r50"), classes="coco")


def test_a_cut_objectness_head_cannot_go_back():
    hub, _ = convert(official("deta_r50"), classes="coco80")
    with pytest.raises(UserError, match="encoder stage has 1 class outputs and the decoder 80"):
        convert(hub, target="deta")


def test_another_detector_is_not_written():
    hub, _ = convert(official("dab_deformable_detr_r50"))
    with pytest.raises(UserError, match="another detector than deta"):
        convert(hub, target="deta")
    backbone = {n.removeprefix("backbone."): t for n, t in hub.items() if n.startswith("backbone")}
    with pytest.raises(UserError, match="Only a whole detector can become detr"):
        convert(backbone, target="detr")


def test_lost_and_foreign_tensors_are_named():
    state = official("deformable_detr_r50")
    del state["transformer.encoder.layers.4.linear1.bias"]
    with pytest.raises(UserError, match="lacks transformer.encoder.layers.4.linear1.bias;"):
        convert(state)
    state = official("deformable_detr_r50") | {"obj_embed.weight": torch.ones(2)}
    with pytest.raises(UserError, match=r"1 tensors \(obj_embed.weight\) have no place"):
        convert(state)


def test_heads_that_are_only_under_the_decoder_are_found():
    state = official("deta_r50")
    only = {k: t for k, t in state.items() if not k.startswith(("class_embed", "bbox_embed"))}
    assert set(convert(only)[0]) == set(convert(state)[0])


def small(classes):
    """A model of ours for an official DETA file, too large to train here but quick to build."""
    model = LazyConfig.load(str(CONFIGS / "deta.py")).model
    model.heads.num_classes = classes
    return instantiate(model)


def test_loading_swaps_the_classes_by_one_flag_and_says_so():
    state = official("deta_r50")
    model = small(80)
    with pytest.raises(UserError, match="train.init.classes to coco80 or drop"):
        load_weights(model, state)
    report = load_weights(model, state, classes="coco80", allow_missing=())
    assert report.layout == "deta"
    assert report.full_coverage
    assert not report.new
    assert "80 of 91 rows by classes=coco80" in str(report)
    assert torch.equal(model.heads.classes[0].bias, state["class_embed.0.bias"][list(COCO80)])
    before = model.heads.classes[5].weight.clone()
    report = load_weights(model, official("deta_r50", seed=1), classes="drop")
    assert torch.equal(model.heads.classes[5].weight, before)
    assert "left out by classes=drop" in str(report)
    assert set(report.new) == {n for n in model.state_dict() if n.startswith("heads.classes")}


def test_objectness_is_cut_to_the_model_and_said():
    state = official("deta_r50")
    model = small(91)
    report = load_weights(model, state, allow_missing=())
    assert "row 0 of 91 taken for the encoder stage" in str(report)
    assert torch.equal(model.proposals.classes.weight, state["class_embed.6.weight"][:1])


def test_our_own_files_change_classes_too():
    hub, _ = convert(official("deta_r50"))
    model = small(80)
    report = load_weights(model, hub, classes="coco80", allow_missing=())
    assert report.layout == "same names"
    assert not report.new
    assert "80 of 91 rows" in str(report)


def test_the_tool_converts_classes(tmp_path, monkeypatch, capsys):
    source, target = tmp_path / "detr.pth", tmp_path / "detr.safetensors"
    torch.save({"model": official("detr_r50"), "args": argparse.Namespace(lr=1e-4)}, source)
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(source), str(target), "--classes", "coco80"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert ended.value.code == 0
    assert "detr -> detectron2, ResNet-50: 458 tensors converted" in capsys.readouterr().out
    assert len(read_weights(target).state["heads.classes.0.bias"]) == 81


def test_the_backbone_alone_is_found_too():
    bare = bare_state("a file", official("deta_r50"))
    assert len(bare) == 265
    assert torch.equal(
        bare["res3.0.shortcut.norm.bias"],
        official("deta_r50")["backbone.0.body.layer2.0.downsample.1.bias"],
    )


def test_a_pre_norm_detr_has_one_more_norm():
    state = official("detr_r50")
    state |= {f"transformer.encoder.norm.{part}": torch.rand(256) for part in ("weight", "bias")}
    config = LazyConfig.load(str(CONFIGS / "detr.py")).model
    config.heads.num_classes, config.encoder.pre_norm = 91, True
    model = instantiate(config)
    model.load_state_dict(convert(state)[0])
    assert torch.equal(model.encoder.norm.bias, state["transformer.encoder.norm.bias"])
    back, _ = convert(model.state_dict(), target="detr")
    assert set(back) == set(state)


def test_a_file_of_a_run_goes_back_to_its_origin():
    """The names that a trained model of ours has are exactly the converted ones."""
    config = LazyConfig.load(str(CONFIGS / "dn_dab_deformable_detr.py")).model
    config.heads.num_classes = 91
    found, report = convert(instantiate(config).state_dict(), target="dn_dab_deformable_detr")
    assert report.source == "detectron2"
    assert set(found) == set(official("dn_dab_deformable_detr_r50"))
