"""What starts a box pretext, and what of it starts a finetuning run."""

import copy

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from d2_unsupdet.checkpoint import convert, export_weights, load_weights
from d2_unsupdet.checkpoint.backbone import bare_state
from d2_unsupdet.errors import UserError
from tests.checkpoint.test_pretext_convert import official
from tests.detectors.tiny import MODELS, NAMES, tiny_detr
from tests.pretext.tiny_boxes import METHODS, tiny_pretext

OWN = ("patch2query.", "feature_head.", "embed_head.", "projector.", "predictor.")


def changed(model):
    """A copy with other weights everywhere."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(1)
    return other


def equal(model, source, prefix="detector."):
    """Names of `source` whose tensors stand in the model."""
    state = model.state_dict()
    return {n for n, t in source.items() if torch.equal(state[prefix + n], t)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("freeze_at", [0, 5])
def test_a_backbone_starts_a_pretext(method, freeze_at):
    model = tiny_pretext(method, "deformable_detr", freeze_at=freeze_at)
    whole = changed(model.detector.backbone).state_dict()
    whole = {n: t for n, t in whole.items() if not n.endswith("num_batches_tracked")}
    for state in (whole, {f"backbone.{n}": t for n, t in whole.items()}):
        report = load_weights(model, state)
        assert report.full_coverage
        assert equal(model, whole, "detector.backbone.") == whole.keys()
        assert all(n.startswith("detector.backbone.") for n in report.matched)
        assert not any(n.startswith("teacher.") for n in report.new)
    model.begin()
    if freeze_at == 0:
        assert equal(model, whole, "teacher.backbone.") == whole.keys()


@pytest.mark.parametrize("method", METHODS)
def test_a_part_of_a_backbone_is_refused(method):
    model = tiny_pretext(method, "detr", freeze_at=0)
    state = {f"backbone.{n}": t for n, t in model.detector.backbone.state_dict().items()}
    lost = {n: t for n, t in state.items() if "res4" not in n}
    with pytest.raises(UserError, match=r"lacks \d+ tensors .*backbone.res4"):
        load_weights(model, lost)
    for prefix in ("", "detector."):  # the model's own names, or those of its detector
        load_weights(model, lost, allow_missing=[f"{prefix}backbone.res4*", "[!b]*"])


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_detector_starts_a_pretext(name):
    model = tiny_pretext("siamese_detr", name)
    bare = changed(model.detector)
    state = bare.state_dict()
    report = load_weights(model, state)
    assert equal(model, state) == state.keys()
    assert report.new and all(n.startswith(OWN) for n in report.new)
    part = {n: t for n, t in state.items() if not n.startswith("decoder.layers.1.")}
    with pytest.raises(UserError, match=r"lacks \d+ tensors of the model \(decoder.layers.1"):
        load_weights(model, part)


def test_the_classes_of_a_bare_detector_need_the_flag():
    model = tiny_pretext("detreg", "deformable_detr")
    state = tiny_detr("deformable_detr", classes=7, seed=3).state_dict()
    with pytest.raises(UserError, match="set train.init.classes to drop"):
        load_weights(model, state)
    report = load_weights(model, state, classes="drop")
    new = {n for n in report.new if not n.startswith(OWN)}
    assert new == {f"detector.heads.classes.0.{part}" for part in ("weight", "bias")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["up_detr", "join_det"])
def test_an_export_goes_on_without_a_flag(method, name, tmp_path):
    """Into the detector, whose class heads start anew; and into any pretext on it."""
    model = changed(tiny_pretext(method, name))
    state = model.export()
    detector = tiny_detr(name, classes=5)
    before = copy.deepcopy(detector.state_dict())
    for path in export_weights(state, tmp_path / "export"):
        detector.load_state_dict(before)
        report = load_weights(detector, path)
        assert report.full_coverage
        assert equal(detector, state, "") == state.keys()
        assert report.new.keys() == before.keys() - state.keys()
        assert f"classes  {len(report.new):4} tensors: starts anew" in str(report)
        assert all(torch.equal(detector.state_dict()[n], before[n]) for n in report.new)
    with pytest.raises(UserError, match="lacks"):
        load_weights(detector, state, allow_missing=())  # as for a score
    other = tiny_pretext("detreg", name)
    report = load_weights(other, state)
    assert equal(other, state) == state.keys()
    assert {n.split(".")[0] for n in report.new} == {"detector", "embed_head"}


@pytest.mark.parametrize("two_stage, said", [(True, "has one stage"), (False, "has two stages")])
def test_an_export_of_another_number_of_stages_is_called_so(two_stage, said):
    names = ["deformable_detr", "deformable_detr_two_stage"]
    theirs, ours = names[::-1] if two_stage else names
    state = tiny_pretext("detreg", theirs).export()
    detector = tiny_detr(ours)
    config = "detr_r50_two_stage_50ep" if two_stage else "detr_r50_50ep"
    with pytest.raises(UserError, match=f"{said}: .*{config}.*allow_missing"):
        load_weights(detector, state)


def test_half_an_export_is_refused():
    state = tiny_pretext("up_detr", "deformable_detr").export()
    part = {n: t for n, t in state.items() if not n.startswith("heads.boxes.0.layers.1")}
    with pytest.raises(UserError, match=r"lacks 2 tensors of the model \(heads.boxes.0.layers.1"):
        load_weights(tiny_detr("deformable_detr"), part)


@pytest.mark.parametrize("freeze_at", [0, 5])
def test_a_checkpoint_of_a_pretext_starts_the_same_and_the_detector(freeze_at):
    model = changed(tiny_pretext("siamese_detr", "conditional_detr", freeze_at=freeze_at))
    with torch.no_grad():
        model.detector.backbone.stem.conv1.weight.add_(1)  # it has learned, its teacher has not
    state = model.state_dict()
    same = tiny_pretext("siamese_detr", "conditional_detr", freeze_at=freeze_at)
    report = load_weights(same, state, allow_missing=())
    assert not report.new and report.full_coverage
    mine = {n for n in state if not n.startswith("teacher.")}
    assert mine <= equal(same, state, "")
    found = bare_state("a file", state)  # of the detector, not of its teacher
    assert equal(model.detector.backbone, found, "") == found.keys()
    detector = tiny_detr("conditional_detr", classes=5)
    report = load_weights(detector, state)
    assert equal(detector, model.export(), "") == model.export().keys()
    assert "head or teacher of the pretext" in str(report)
    assert "class head of the pretext" in str(report)
    part = {n: t for n, t in state.items() if not n.startswith("projector.")}
    with pytest.raises(UserError, match=r"lacks \d+ tensors of the model \(projector.0"):
        load_weights(same, part)
    with pytest.raises(UserError, match="load the export.safetensors beside it"):
        load_weights(detector.backbone, state)


def test_another_pretexts_heads_need_permission():
    state = tiny_pretext("up_detr", "detr").state_dict()
    model = tiny_pretext("siamese_detr", "detr")
    with pytest.raises(UserError, match=r"lacks \d+ tensors of the model \(projector.0"):
        load_weights(model, state)
    load_weights(model, state, allow_missing=["projector.*", "predictor.*"])


@pytest.mark.parametrize("name", ["detr", "deformable_detr", "dab_deformable_detr"])
def test_another_number_of_queries_is_an_error(name):
    state = tiny_pretext("detreg", name).export()
    detector = tiny_detr(name, queries=6)
    with pytest.raises(UserError, match=r"query_source.*\(12, \d+\) in the file, \(6, .*queries"):
        load_weights(detector, state)
    with pytest.raises(UserError, match=r"train.init.allow_mismatch=\[query_source\.\*\] \("):
        load_weights(detector, state)
    load_weights(detector, state, allow_mismatch=["query_source.*"])


def test_another_pretexts_class_heads_are_called_so():
    """UP-DETR's softmax has two rows, DETReg's focal head one; neither is COCO's."""
    other, model = (tiny_pretext(name, "deformable_detr") for name in ("up_detr", "detreg"))
    state = other.state_dict()
    said = "take the file's export .*checkpoint of UP-DETR.*classes to drop"
    with pytest.raises(UserError, match=said) as caught:
        load_weights(model, state)
    assert "coco80" not in str(caught.value)
    heads = ["embed_head.*"]
    report = load_weights(model, state, allow_missing=heads, classes="drop", min_coverage=0.5)
    assert all("heads.classes" in n or "embed_head" in n for n in report.new)
    load_weights(model, other.export())


def test_norms_before_and_behind_are_not_mixed():
    before = tiny_detr("detr", encoder__pre_norm=True)
    behind = tiny_detr("detr")
    with pytest.raises(UserError, match="has them behind: set model.encoder.pre_norm to True"):
        load_weights(behind, before.state_dict())
    with pytest.raises(UserError, match="has them before: set model.encoder.pre_norm to False"):
        load_weights(before, behind.state_dict())
    with pytest.raises(UserError, match=r"model.detector.encoder.pre_norm"):
        load_weights(tiny_pretext("up_detr", "detr"), before.state_dict())


def full_size(method, layout, **settings):
    """An untouched pretext of official size."""
    detector = LazyConfig.load(str(MODELS / f"{layout}.py")).model
    detector.encoder.update(settings)
    return instantiate(LazyConfig.load(str(MODELS / f"{method}.py"), method)(detector))


def test_official_files_start_pretexts_and_detectors():
    state = official("siamese_detr_deformable_ms_r50")
    model = full_size("siamese_detr", "deformable_detr")
    report = load_weights(model, state, allow_missing=())
    assert report.layout == "siamese_detr" and report.full_coverage
    assert "2 tensors: row 1, the object, and the last, no object, of 3" in str(report)
    assert torch.equal(
        model.detector.heads.classes[0].bias, state["pred_head.class_embed.bias"][1:]
    )
    assert torch.equal(model.patch2query.weight, state["patch2query.weight"])
    model.detector.heads.num_classes = 20
    report = load_weights(model.detector, state)
    assert set(report.new) == {"heads.classes.0.weight", "heads.classes.0.bias"}
    report = load_weights(model, state, classes="drop")
    assert set(report.new) == {f"detector.heads.classes.0.{n}" for n in ("weight", "bias")}
    other = full_size("detreg", "deformable_detr")
    with pytest.raises(UserError, match=r"heads.classes.0.bias is \(2,\) in the file, \(1,\)"):
        load_weights(other, state)  # a softmax is no sigmoid
    assert load_weights(other, convert(state)[0]).layout == "same names"


def test_a_pre_norm_file_wants_a_pre_norm_pretext():
    state = official("detreg_detr_r50")
    with pytest.raises(UserError, match="set model.encoder.pre_norm to True"):
        load_weights(full_size("detreg", "detr"), state)
    model = full_size("detreg", "detr", pre_norm=True)
    assert load_weights(model, state, allow_missing=()).full_coverage
    key = "transformer.encoder.norm.bias"
    assert torch.equal(model.detector.encoder.norm.bias, state[key])
