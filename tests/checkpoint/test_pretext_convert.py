"""UP-DETR, DETReg and Siamese DETR of their authors: as pretexts, as detectors to finetune."""

import json
import runpy
import sys
from functools import cache

import pytest
import torch

from d2_unsupdet.checkpoint import convert, detect, read_weights
from d2_unsupdet.checkpoint.backbone import bare_state
from d2_unsupdet.checkpoint.formats import FORMATS
from d2_unsupdet.errors import UserError
from tests.checkpoint.test_detr_convert import GOLDEN, TOOL
from tests.checkpoint.test_detr_convert import official as downstream

FILES = {  # golden file: format, layout of the detector inside
    "updetr_pretrain_r50": ("up_detr", "detr"),
    "detreg_deformable_r50": ("detreg", "deformable_detr"),
    "detreg_detr_r50": ("detreg", "detr"),
    "siamese_detr_vanilla_r50": ("siamese_detr", "detr"),
    "siamese_detr_conditional_r50": ("siamese_detr", "conditional_detr"),
    "siamese_detr_deformable_ms_r50": ("siamese_detr", "deformable_detr"),
}
SIAMESE = [name for name in FILES if name.startswith("siamese")]
DEFORMABLE = "siamese_detr_deformable_ms_r50"


@cache
def _manifest(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def official(name, seed=0):
    """Every tensor another number under the official names; rows of heads and tables differ."""
    manifest, random = _manifest(name), torch.Generator().manual_seed(seed)
    state = {}
    for key, entry in manifest["state_dict"].items():
        shape = entry["shape"]
        rows = shape if not shape or shape[0] <= 300 and len(shape) < 4 else [1] * len(shape)
        state[key] = torch.randn(rows, generator=random).expand(shape)
    for group in manifest.get("alias_groups", []):
        for key in group:
            state[key] = state[group[0]]
    return state


def converted_there(name):
    """What Siamese DETR's own converter writes: specification A9."""
    inner = FILES[name][1]
    result = {}
    for key, tensor in official(name).items():
        if key.startswith("backbone."):
            result[key.replace("backbone.", "backbone.0.body.", 1)] = tensor
        elif key.startswith(("transformer.", "query_embed.", "input_proj.", "patch2query.")):
            result[key] = tensor
        elif key.startswith("pred_head.bbox_embed.") or (
            key.startswith("pred_head.class_embed.") and inner == "deformable_detr"
        ):
            head, _, rest = key.removeprefix("pred_head.").partition(".")
            for place in [f"{i}." for i in range(6)] if inner == "deformable_detr" else [""]:
                result[f"{head}.{place}{rest}"] = tensor
    return result


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_known_as_itself_only(name):
    for state in (official(name), {f"module.{n}": t for n, t in official(name).items()}):
        assert [entry.name for entry in FORMATS.values() if entry.fits(state)] == [FILES[name][0]]
        found, _ = convert(state)
        assert found.keys() == convert(official(name))[0].keys()


@pytest.mark.parametrize("name", SIAMESE)
def test_files_converted_there_are_known_too(name):
    state = converted_there(name)
    assert detect(state).name == "siamese_detr"
    found, report = convert(state)
    expected, _ = convert(official(name))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert report.dropped["patch2query.weight"] == "head of the pretext"


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_has_a_place_or_a_reason(name):
    state = official(name)
    for target in ("detectron2", "pretext"):
        _, report = convert(state, target=target)
        assert report.depth == 50
        assert report.names.keys() | report.dropped.keys() == state.keys()
        assert not report.names.keys() & report.dropped.keys()
    assert set(report.dropped.values()) <= {"loss weights", "the one head of all layers, repeated"}


@pytest.mark.parametrize("name", FILES)
def test_the_detector_alone_is_the_official_one_without_class_heads(name):
    inner = FILES[name][1]
    found, report = convert(official(name))
    assert not any(n.startswith("heads.classes") for n in found)
    assert {"head of the pretext", "class head of the pretext"} <= set(report.dropped.values())
    back, _ = convert(official(name), target=inner)
    plain = downstream({"detr": "detr_r50", "conditional_detr": "conditional_detr_r50"}.get(
        inner, "deformable_detr_r50"))  # fmt: skip
    norm = {n for n in official(name) if n.startswith("transformer.encoder.norm.")}
    assert back.keys() == {n for n in plain if "class_embed" not in n} | norm
    if inner == "deformable_detr":  # one head for all layers, six times
        last = "layers.2.bias"
        for layer in range(6):
            assert torch.equal(back[f"bbox_embed.{layer}.{last}"], found[f"heads.boxes.0.{last}"])


def test_the_halves_of_the_query_table_are_joined_position_first():
    state = official(DEFORMABLE)
    found, report = convert(state)
    halves = ["query_embed.weight", "transformer.tgt_embed.weight"]
    assert torch.equal(
        found["query_source.embed.weight"], torch.cat([state[n] for n in halves], dim=1)
    )
    assert {report.names[n] for n in halves} == {"query_source.embed.weight"}
    with pytest.raises(UserError, match=r"\(299, 256\), but they are halves of one table"):
        convert(state | {halves[1]: state[halves[1]][:299]})
    for lost in halves:
        with pytest.raises(UserError, match=f"lacks {lost}, half of its query table"):
            convert({n: t for n, t in state.items() if n != lost})


def test_the_pretexts_heads_have_our_names():
    found, _ = convert(official(DEFORMABLE), target="pretext")
    state = official(DEFORMABLE)
    for ours, theirs in (
        ("patch2query.weight", "patch2query.weight"),
        ("feature_head.layers.1.bias", "pred_head.feature_align.layers.1.bias"),
        ("projector.7.running_mean", "enc_head.0.projector.mlp.7.running_mean"),
        ("predictor.3.weight", "enc_head.0.predictor.mlp.3.weight"),
        ("detector.heads.classes.0.weight", "pred_head.class_embed.weight"),
        ("detector.backbone.res3.0.shortcut.norm.bias", "backbone.layer2.0.downsample.1.bias"),
    ):
        assert torch.equal(found[ours], state[theirs])
    found, _ = convert(official("detreg_detr_r50"), target="pretext")
    assert "embed_head.layers.0.weight" in found
    assert "detector.encoder.norm.bias" in found  # pre-norm


@pytest.mark.parametrize(
    ("name", "key", "rows"),
    [
        ("updetr_pretrain_r50", "class_embed", [1, 2]),
        ("detreg_detr_r50", "class_embed", [1, 91]),
        ("detreg_deformable_r50", "class_embed.0", [1]),
        (DEFORMABLE, "pred_head.class_embed", [1, 2]),
    ],
)
def test_of_the_class_head_only_the_object_is_ours(name, key, rows):
    state = official(name)
    found, report = convert(state, target="pretext", classes="object")
    for part in ("weight", "bias"):
        expected = state[f"{key}.{part}"][rows]
        assert torch.equal(found[f"detector.heads.classes.0.{part}"], expected)
    assert "row 1, the object" in str(report)
    with pytest.raises(UserError, match="keep and object can be had, not coco80"):
        convert(state, target="pretext", classes="coco80")


def test_what_is_cut_off_or_foreign_is_named():
    state = official("updetr_pretrain_r50")
    lost = "transformer.decoder.layers.2.multihead_attn.in_proj_bias"
    with pytest.raises(UserError, match=f"no whole detr, it lacks {lost}"):
        convert({n: t for n, t in state.items() if n != lost})
    with pytest.raises(UserError, match=r"1 tensors \(mask_token\) have no place"):
        convert(state | {"mask_token": torch.ones(1)})
    with pytest.raises(UserError, match="lacks bbox_embed.2, a head"):
        deformable = converted_there(DEFORMABLE)
        convert({n: t for n, t in deformable.items() if not n.startswith("bbox_embed.2.")})
    with pytest.raises(UserError, match="A file of deformable_detr is none of a box pretext"):
        convert(convert(state, target="detr")[0] | {"class_embed.weight": torch.ones(3, 256)},
                "deformable_detr", "pretext")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_pretexts_of_ours_go_the_same_way(name):
    ours, _ = convert(official(name), target="pretext")
    ours["teacher.backbone.stem.conv1.weight"] = torch.ones(1)
    found, report = convert(ours, target=FILES[name][1])
    expected, _ = convert(official(name), target=FILES[name][1])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert report.names.keys() | report.dropped.keys() == ours.keys()
    bare, _ = convert(ours)  # what it exports
    again, _ = convert(bare, target=FILES[name][1])
    assert again.keys() == expected.keys()
    for state in (ours, official(name)):
        with pytest.raises(UserError, match="classes=coco80: the file is of a pretext"):
            convert(state, classes="coco80")


@pytest.mark.parametrize("name", FILES)
def test_the_backbone_alone_is_found_too(name):
    bare, (hub, _) = bare_state("a file", official(name)), convert(official(name))
    assert len(bare) == 265
    assert all(torch.equal(tensor, hub[f"backbone.{key}"]) for key, tensor in bare.items())


def test_the_tool_writes_a_pretext(tmp_path, monkeypatch, capsys):
    source, target = tmp_path / "siamese.pth", tmp_path / "pretext.safetensors"
    state = {f"module.{n}": t for n, t in official(DEFORMABLE).items()}
    torch.save({"state_dict": state, "meta": {"iter": 5}}, source)
    words = [str(TOOL), str(source), str(target), "--to", "pretext", "--classes", "object"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert ended.value.code == 0
    assert "siamese_detr -> pretext, ResNet-50: " in capsys.readouterr().out
    assert len(read_weights(target).state["detector.heads.classes.0.bias"]) == 2
