"""Exported files give back the same values, to us and to Detectron2."""

import pytest
import torch

from d2_unsupdet.checkpoint import convert, export_weights, read_weights, write_weights
from d2_unsupdet.errors import UserError
from tests.checkpoint.detectors import detector
from tests.checkpoint.layouts import torchvision_state


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    state, _ = convert(torchvision_state(50))
    stem = tmp_path_factory.mktemp("export") / "new" / "dupr.e200"
    return state, export_weights(state, stem, meta={"method": "x"})


def test_the_names_keep_their_dots(files):
    assert [path.name for path in files[1]] == ["dupr.e200.safetensors", "dupr.e200.pkl"]
    assert len(list(files[1][0].parent.iterdir())) == 2


def test_both_files_give_back_the_same_bits(files):
    state, paths = files
    for path in paths:
        found = read_weights(path).state
        assert found.keys() == state.keys()
        for name, tensor in state.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].shape == tensor.shape
            assert torch.equal(found[name], tensor)


def test_the_container_is_the_one_detectron2_expects(files):
    meta = read_weights(files[1][1]).meta
    assert meta["matching_heuristics"] is True
    assert meta["__author__"] == "d2_unsupdet"
    assert read_weights(files[1][0]).meta == {
        "author": "d2_unsupdet",
        "format": "pt",
        "method": "x",
    }


@pytest.mark.parametrize(("kind", "prefix"), [("c4", "backbone"), ("fpn", "backbone.bottom_up")])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_detectron2s_checkpointer_reads_the_pickle(files, kind, prefix, norm):
    from detectron2.checkpoint import DetectionCheckpointer

    state, paths = files
    model = detector(kind, depth=50, norm=norm)
    DetectionCheckpointer(model).load(str(paths[1]))
    found = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        place = "roi_heads" if kind == "c4" and name.startswith("res5") else prefix
        assert torch.equal(found[f"{place}.{name}"], tensor), name


def test_views_shared_and_half_tensors(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "a": base.t(),
        "b": base.t(),
        "c": base[:1],
        "d": base.bfloat16(),
        "e": torch.tensor(3),
    }
    for path in export_weights(state, tmp_path / "w"):
        found = read_weights(path).state
        assert all(torch.equal(found[n].float(), t.float()) for n, t in state.items())
        assert found["e"].shape == ()
        assert path.stat().st_size < 2000


def test_pth_loads_safely(tmp_path):
    write_weights(tmp_path / "w.pth", {"a": torch.ones(2)}, meta={"n": "1"})
    assert read_weights(tmp_path / "w.pth").state["a"].tolist() == [1, 1]


def test_bad_places_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="suffix must be one of .safetensors, .pkl, .pth"):
        write_weights(tmp_path / "w.onnx", {"a": torch.ones(2)})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot make the folder"):
        write_weights(tmp_path / "file" / "w.pth", {"a": torch.ones(2)})


def test_a_torchvision_file_is_what_load_state_dict_takes(tmp_path):
    import torchvision

    state = torchvision.models.resnet18().state_dict()
    write_weights(tmp_path / "tv.pth", state, meta={"layout": "torchvision"})
    loaded = torch.load(tmp_path / "tv.pth", weights_only=True)
    missing = torchvision.models.resnet18().load_state_dict(loaded, strict=False)
    assert not missing.missing_keys and not missing.unexpected_keys
