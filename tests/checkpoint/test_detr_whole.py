"""A detector that lost a tensor is neither converted nor loaded; the message names the tensor."""

import copy
import re
from functools import cache

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from d2_unsupdet.checkpoint import convert, load_weights
from d2_unsupdet.errors import UserError
from tests.checkpoint.test_detr_convert import CONFIGS, official
from tests.checkpoint.test_detr_huggingface import theirs

# one layer, three heads and one level stand for the others
LEFT_OUT = re.compile(
    r"backbone|transformer\.(en|de)coder\.layers\.[0-24-9]|transformer\.decoder\.(class|bbox)_embed|"
    r"(class|bbox)_embed\.[1235]|input_proj\.[02-9]\."
)


def without(state, *starts):
    """The state without these tensors, under either of a head's names."""
    lost = tuple(start for name in starts for start in (name, f"transformer.decoder.{name}"))
    return {n: t for n, t in state.items() if not n.startswith(lost)}


@pytest.mark.parametrize(
    "name",
    [
        "detr_r50",
        "conditional_detr_r50",
        "deformable_detr_r50",
        "deformable_detr_r50_two_stage",
        "dn_dab_deformable_detr_r50",
        "deta_r50",
    ],
)
def test_every_tensor_is_missed(name):
    state = official(name)
    tried = [key for key in state if not LEFT_OUT.match(key)]
    assert len(tried) > 40
    for key in tried:
        # any head's tensor is named, or the head
        said = re.sub(r"^((class|bbox)_embed\.\d+)\..*", r"\1", key)
        with pytest.raises(UserError, match=f"lacks .*{re.escape(said)}.*fetch it again"):
            convert(without(state, key))


@pytest.mark.parametrize(
    ("name", "lost", "said"),
    [
        ("deta_r50", ["class_embed.6."], "lacks class_embed.6, a head of a decoder of 6 layers"),
        ("deta_r50", ["bbox_embed.6."], "lacks bbox_embed.6, a head"),
        ("deta_r50", ["class_embed.6.", "bbox_embed.6."], "lacks class_embed.6, a head"),
        ("deformable_detr_r50_box_refine", ["bbox_embed.3."], "lacks bbox_embed.3, a head"),
        ("deformable_detr_r50", ["class_embed.5.", "bbox_embed.5."], "lacks class_embed.5, a head"),
        ("dab_deformable_detr_r50", ["class_embed.1.", "class_embed.2.", "class_embed.3.",
         "class_embed.4.", "class_embed.5."], "lacks class_embed.1, a head"),
        ("deta_r50", ["transformer.decoder.layers.5."], "class_embed.6 has no place at a decoder"),
        ("deformable_detr_r50", ["transformer.level_embed"], "lacks transformer.level_embed;"),
        ("deformable_detr_r50", ["input_proj.3."], "lacks input_proj.3.0.bias, input_proj.3.0.wei"),
        ("deta_r50", ["transformer.enc_output."], "lacks transformer.enc_output.bias, "),
        ("deta_r50", ["transformer.pix_trans."], "lacks transformer.pix_trans.bias, "),
        ("dn_dab_deformable_detr_r50", ["label_enc."], "lacks label_enc.weight;"),
        ("detr_r50", ["transformer.decoder.norm."], "lacks transformer.decoder.norm.bias, "),
    ],
)  # fmt: skip
def test_truncated_files_are_not_reinterpreted(name, lost, said):
    with pytest.raises(UserError, match=said):
        convert(without(official(name), *lost))


def test_second_names_are_compared():
    state = official("deta_r50")
    key = "transformer.decoder.bbox_embed.2.layers.1.weight"
    state[key] = state[key] + 1
    with pytest.raises(UserError, match=r"two values of one tensor, bbox_embed.2.layers.1.weight"):
        convert(state)


def test_a_truncated_file_of_ours_is_not_converted():
    hub, _ = convert(official("deta_r50"))
    for lost, said in (
        ("heads.classes.3.", "lacks heads.classes.3"),
        ("heads.boxes.5.", "holds 5 heads.boxes for 6 decoder layers"),
        ("decoder.layers.2.ffn.linear1.bias", "lacks decoder.layers.2.ffn.linear1.bias"),
        ("neck.levels.1.norm.", "lacks neck.levels.1.norm.bias"),
    ):
        part = {n: t for n, t in hub.items() if not n.startswith(lost)}
        with pytest.raises(UserError, match=said):
            convert(part)
    part = {n: t for n, t in hub.items() if not n.startswith("proposals.norm.")}
    with pytest.raises(UserError, match="no whole deta, it lacks proposals.norm.bias"):
        convert(part, target="deta")


def test_hugging_face_files_are_checked_too():
    state = theirs("deformable_detr_two_stage", "own")[0].state_dict()
    for lost in ("class_embed.2.", "bbox_embed.1."):
        part = {n: t for n, t in state.items() if not n.removeprefix("model.decoder.")
                .startswith(lost)}  # fmt: skip
        with pytest.raises(UserError, match=f"lacks {lost[:-1]}, a head"):
            convert(part)
    for lost in ("model.level_embed", "model.enc_output.weight", "model.pos_trans_norm.bias"):
        with pytest.raises(UserError, match="The file is no whole deformable_detr, it lacks"):
            convert({n: t for n, t in state.items() if n != lost})
    state = theirs("detr", "own")[0].state_dict()
    del state["class_labels_classifier.weight"]
    with pytest.raises(UserError, match="it lacks heads.classes.0.weight"):
        convert(state)


def test_a_shared_head_may_be_there_once_in_hugging_face_files():
    """As safetensors leaves tensors that share memory."""
    state = theirs("deformable_detr", "own")[0].state_dict()
    for name in [n for n in state if re.match(r"(class|bbox)_embed\.1\.", n)]:
        state[name] = state[name.replace("_embed.1.", "_embed.0.")]
    expected, _ = convert(state)
    found, _ = convert({n: t for n, t in state.items() if "_embed.1." not in n})
    assert set(found) == set(expected)
    assert "heads.classes.1.weight" not in found


@cache
def _built(name, classes):
    config = LazyConfig.load(str(CONFIGS / f"{name}.py")).model
    config.heads.num_classes = classes
    return instantiate(config)


def model(name, classes=91):
    """A model of ours of full size, untouched."""
    return copy.deepcopy(_built(name, classes))


@pytest.mark.parametrize(
    ("lost", "ours"),
    [
        ("bbox_embed.3.", "heads.boxes.3."),
        ("class_embed.6.", "proposals.classes."),
        ("transformer.level_embed", "encoder.level_embed"),
        ("transformer.enc_output.", "proposals.project."),
        ("transformer.pix_trans_norm.", "query_source.content_norm."),
    ],
)
def test_truncated_detectors_are_not_loaded(lost, ours):
    state, detector = official("deta_r50"), model("deta")
    with pytest.raises(UserError, match="lacks"):
        load_weights(detector, without(state, lost))
    hub, _ = convert(state)
    part = {n: t for n, t in hub.items() if not n.startswith(ours)}
    with pytest.raises(UserError, match=rf"lacks \d+ tensors of the model \({ours}.*allow_missing"):
        load_weights(detector, part)
    report = load_weights(detector, part, allow_missing=[f"{ours}*"])
    assert set(report.new) == set(hub) - set(part)


def test_a_bare_backbone_still_starts_a_detector():
    hub, _ = convert(official("deta_r50"))
    whole = {n: t for n, t in hub.items() if n.startswith("backbone.")}
    for state in (whole, {n.removeprefix("backbone."): t for n, t in whole.items()}):
        report = load_weights(model("deta"), state)
        assert report.full_coverage
        assert all(not n.startswith("backbone.") for n in report.new)


def test_another_variant_needs_permission():
    state = official("deformable_detr_r50_box_refine")
    detector = model("deformable_detr_two_stage")
    with pytest.raises(UserError, match=r"has two stages.*\(proposals.project"):
        load_weights(detector, state)
    fresh = ["proposals.*", "query_source.*"]
    report = load_weights(detector, state, allow_missing=fresh)
    assert {n.partition(".")[0] for n in report.new} == {"proposals", "query_source"}


def test_class_heads_are_missed_only_if_some_are_there():
    state, _ = convert(official("dn_dab_deformable_detr_r50"), classes="drop")
    detector = model("dn_dab_deformable_detr", classes=80)
    report = load_weights(detector, state)
    assert len(report.new) == 13
    assert "13 tensors: starts anew: the file has no class heads" in str(report)
    some = state | {"query_source.denoising.labels.weight": torch.ones(81, 255)}
    with pytest.raises(UserError, match="lacks 12 .* set train.init.classes to drop"):
        load_weights(detector, some)
    for source in (state, official("dn_dab_deformable_detr_r50")):
        for allowed in (None, ["proposals.*"]):
            report = load_weights(detector, source, classes="drop", allow_missing=allowed)
            assert len(report.new) == 13
        with pytest.raises(UserError, match="lacks 13 tensors"):
            load_weights(detector, source, classes="drop", allow_missing=())
    with pytest.raises(UserError, match="holds no class heads"):
        load_weights(detector, state, classes="coco80")


def test_class_map_is_detectron2s():
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    from d2_unsupdet.checkpoint.class_heads import COCO80

    things = [c["id"] for c in COCO_CATEGORIES if c["isthing"]]
    assert list(COCO80) == things
    state = official("deformable_detr_r50")
    state = {n: torch.arange(91.0) if n.startswith("class_embed") and n.endswith("bias") else t
             for n, t in state.items()}  # fmt: skip
    hub, _ = convert(state, classes="coco80")
    assert hub["heads.classes.0.bias"].tolist() == things
