"""Conversion keeps every value in its place, or says what is wrong."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from d2_unsupdet.checkpoint import IncompleteError, convert, read_weights, write_weights
from d2_unsupdet.checkpoint.resnet import check_resnet, resnet_shapes
from d2_unsupdet.errors import UserError
from tests.checkpoint.layouts import LAYOUTS, backbone_state, torchvision_net, torchvision_state

TOOL = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"


def detectron2_net(depth):
    from detectron2.modeling.backbone import BasicStem, ResNet

    stride = {} if depth < 50 else {"stride_in_1x1": False}
    stages = ResNet.make_default_stages(depth, norm="BN", **stride)
    features = ["res2", "res3", "res4", "res5"]
    return ResNet(BasicStem(norm="BN"), stages, out_features=features, freeze_at=0).eval()


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("name", ["torchvision", "moco"])
def test_a_converted_resnet_gives_identical_maps(depth, name):
    theirs, ours = torchvision_net(depth), detectron2_net(depth)
    converted, report = convert(LAYOUTS[name](depth))
    ours.load_state_dict(converted, strict=True)
    assert report.depth == depth

    x = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        maps = ours(x)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for stage in range(1, 5):
            x = getattr(theirs, f"layer{stage}")(x)
            torch.testing.assert_close(maps[f"res{stage + 1}"], x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_backbone(name):
    converted, report = convert(LAYOUTS[name]())
    expected, _ = convert(backbone_state(), "torchvision")
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[k], expected[k]) for k in expected)
    assert len(report.dropped) + len(report.names) == len(LAYOUTS[name]())


def test_the_report_gives_reasons():
    text = str(convert(LAYOUTS["swav"]())[1])
    assert "swav -> detectron2, ResNet-18: 120 tensors converted" in text
    assert "3 dropped (projection head)" in text
    assert "1 dropped (prototypes)" in text
    assert "dropped (outside encoder_q.)" in str(convert(LAYOUTS["moco"]())[1])


@pytest.mark.parametrize("depth", [18, 50, 101])
def test_to_torchvision_and_back_is_lossless(depth):
    names = {n: torch.rand(s) for n, s in resnet_shapes(depth).items()}
    there, report = convert(names, target="torchvision")
    back, _ = convert(there)
    assert report.depth == depth
    assert back.keys() == names.keys()
    assert all(back[k] is names[k] for k in names)


def test_torchvision_loads_what_was_converted_back():
    converted, _ = convert(convert(torchvision_state())[0], target="torchvision")
    result = torchvision_net().load_state_dict(converted, strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"]
    assert not result.unexpected_keys


def test_a_whole_detector_gives_its_resnet():
    bare, _ = convert(torchvision_state())
    detector = {f"backbone.{n}": t for n, t in bare.items() if not n.startswith("res5")}
    detector |= {f"roi_heads.{n}": t for n, t in bare.items() if n.startswith("res5")}
    detector |= {"roi_heads.res5.norm.weight": torch.ones(512), "rpn.conv.weight": torch.ones(1)}
    same, _ = convert(detector)
    assert same.keys() == detector.keys()
    there, report = convert(detector, target="torchvision")
    assert there.keys() == backbone_state().keys()
    assert set(report.dropped) == {"roi_heads.res5.norm.weight", "rpn.conv.weight"}


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_shapes_agree_with_torchvisions(depth):
    import torchvision

    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")().state_dict()
    converted, report = convert(theirs)
    found = {n: tuple(t.shape) for n, t in converted.items() if not n.endswith("_tracked")}
    assert found == resnet_shapes(depth)
    assert report.depth == depth
    groups = {18: 20, 34: 36, 50: 53, 101: 104, 152: 155}[depth]
    assert sum(name.endswith("running_var") for name in found) == groups


@pytest.mark.parametrize("gone", ["conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4."])
@pytest.mark.parametrize("depth", [18, 50])
def test_a_missing_stage_is_an_error_with_the_whole_list(gone, depth, caplog):
    state = {n: t for n, t in torchvision_state(depth).items() if not n.startswith(gone)}
    with pytest.raises(IncompleteError, match=f"not a whole ResNet-{depth} .* missing") as caught:
        convert(state)
    lost = set(torchvision_state(depth)) - set(state)
    lost = {n for n in lost if not n.endswith("_tracked")}
    missing = caught.value.completeness.missing
    assert len(missing) == len(lost)
    assert all(name in caplog.text for name in missing)


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_missing_tensor_is_an_error(name):
    state = LAYOUTS[name]()
    gone = next(n for n in state if n.endswith("layer3.1.bn2.running_var"))
    del state[gone]
    with pytest.raises(IncompleteError, match="1 missing: res4.1.conv2.norm.running_var"):
        convert(state)


def test_unexpected_and_misshaped_are_named():
    state = torchvision_state()
    state["layer2.0.conv1.weight"] = torch.rand(128, 64, 1, 1)
    state["layer2.0.gate.weight"] = torch.rand(1)
    expected = (
        r"1 unexpected: res3.0.gate.weight; "
        r"1 mis-shaped: res3.0.conv1.weight \(128, 64, 1, 1\) instead of \(128, 64, 3, 3\)"
    )
    with pytest.raises(IncompleteError, match=expected):
        convert(state)


def test_counters_may_be_absent():
    state = {n: t for n, t in torchvision_state().items() if not n.endswith("_tracked")}
    assert convert(state)[1].depth == 18
    assert check_resnet(convert(state)[0])


def test_two_networks_in_one_file_are_not_mixed():
    bare, _ = convert(torchvision_state())
    both = {f"student.{n}": t for n, t in bare.items()} | {
        f"teacher.{n}": t for n, t in bare.items()
    }
    with pytest.raises(UserError, match="student.* and teacher.* would both become"):
        convert(both, target="torchvision")


def test_only_some_layouts_are_written():
    with pytest.raises(UserError, match="Nothing can be converted to moco"):
        convert(torchvision_state(), target="moco")


def run_tool(monkeypatch, *args):
    """Exit code of the tool, run in this process."""
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    return ended.value.code


def test_the_tool_converts_there_and_back(tmp_path, monkeypatch, capsys):
    torch.save({"epoch": 1, "state_dict": LAYOUTS["moco"]()}, tmp_path / "moco.pth.tar")
    assert run_tool(monkeypatch, tmp_path / "moco.pth.tar", tmp_path / "r18.pkl") == 0
    assert "moco -> detectron2, ResNet-18" in capsys.readouterr().out
    back = (tmp_path / "r18.pkl", tmp_path / "r18.safetensors", "--to", "torchvision")
    assert run_tool(monkeypatch, *back) == 0
    found = read_weights(tmp_path / "r18.safetensors")
    assert all(torch.equal(found.state[n], t) for n, t in backbone_state().items())
    assert found.meta["layout"] == "torchvision"


def test_the_tool_runs_from_a_shell(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(TOOL.parents[1])}
    command = [sys.executable, TOOL, "none.pth", "x.pkl"]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    where = f"(looked in {tmp_path.resolve()})"
    assert result.stderr.endswith(f"error: There is no file none.pth {where}.\n")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("w.pth", "x.onnx"), "suffix must be one of"),
        (("w.pth", "x.pkl", "--from", "swaw"), "Did you mean 'swav'"),
        (("w.pth", "x.pkl", "--from", "moco"), "not a whole ResNet"),
        (("w.pth", "x.pkl", "--sha256", "0123456789"), "SHA-256"),
    ],
)
def test_the_tools_errors_are_one_line_and_code_2(tmp_path, monkeypatch, capsys, args, said):
    monkeypatch.chdir(tmp_path)
    write_weights("w.pth", torchvision_state())
    assert run_tool(monkeypatch, *args) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ")
    assert said in lines[-1]
    assert not (tmp_path / "x.pkl").exists()
