"""tools/visualize.py: from weights and images to pictures, and sentences for what is missing."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.run import prepare
from d2_unsupdet.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/quickstart/finetune.py")
SETS = ["dataloader.test.dataset.names=toy_val:images=4:size=64", "train.device=cpu"]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("visualize", ROOT / "tools/visualize.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    cfg = prepare(load_config(CONFIG, SETS), eval_only=True)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": instantiate(cfg.model).state_dict()}, path)
    return str(path)


def test_test_set_with_ground_truth(tool, weights, tmp_path, capsys):
    out = tmp_path / "drawn"
    command = [CONFIG, "--weights", weights, "--out", str(out), "--limit", "2"]
    tool.main([*command, "--threshold", "0.99", "--set", *SETS])
    said = capsys.readouterr().out
    assert f"2 pictures in {out}" in said and "No box is drawn: the highest score is 0." in said
    first, second = sorted(out.glob("*.png"))
    assert first.name == "0000_000000.png" and second.name == "0001_000002.png"
    assert Image.open(first).width == 2 * 320 + 8  # two panels


def test_images_of_ones_own_and_unreadable_ones(tool, weights, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.full((50, 80, 3), 90, dtype=np.uint8)).save(folder / "a.jpg")
    (folder / "b.jpg").write_bytes(b"\xff\xd8 cut short")
    out = tmp_path / "drawn"
    tool.main(
        [CONFIG, "--weights", weights, "--images", str(folder), "--out", str(out), "--set", *SETS]
    )
    said = capsys.readouterr().out
    assert "1 pictures" in said and "left out" in said and "b.jpg" in said
    (picture,) = out.iterdir()
    assert Image.open(picture).width == 320  # no ground truth: one panel


def test_what_is_missing_is_a_sentence(tool, weights, tmp_path):
    with pytest.raises(UserError, match="--weights"):
        tool.main([CONFIG, "--out", str(tmp_path), "--set", *SETS])
    with pytest.raises(UserError, match="no image or folder 'nothing.jpg'"):
        tool.main([CONFIG, "--weights", weights, "--images", "nothing.jpg", "--set", *SETS])


@pytest.mark.parametrize("name", ["detr", "conditional_detr", "deta"])
def test_attention_of_the_detr_family(tool, name, tmp_path, capsys):
    config = str(ROOT / f"configs/finetune/toy/{name}.py")
    cfg = prepare(load_config(config, SETS), eval_only=True)
    weights, out = tmp_path / "model.pth", tmp_path / "drawn"
    torch.save({"model": instantiate(cfg.model).state_dict()}, weights)
    command = [config, "--weights", str(weights), "--attention", "--limit", "1", "--out", str(out)]
    tool.main([*command, "--threshold", "0", "--best", "1", "--set", *SETS])
    (picture,) = out.iterdir()
    assert Image.open(picture).size == (2 * 320 + 8, 2 * 344 + 8)
    chosen = ["--points", "0.1,0.9", "0.5,0.5", "--queries", "3", "--layer", "0"]
    tool.main([*command, *chosen, "--set", *SETS])
    assert Image.open(picture).width == 3 * 320 + 2 * 8
    assert f"1 pictures in {out}" in capsys.readouterr().out
    with pytest.raises(UserError, match="no layer 3"):
        tool.main([*command, "--layer", "3", "--set", *SETS])


def test_other_detectors_have_no_attention(tool, weights, tmp_path):
    command = [CONFIG, "--weights", weights, "--out", str(tmp_path), "--attention"]
    with pytest.raises(UserError, match="RCNN has no attention to draw"):
        tool.main([*command, "--set", *SETS])
    with pytest.raises(UserError, match="add --attention"):
        tool.main([*command[:-1], "--queries", "3", "--set", *SETS])


def test_spread_is_even(tool):
    assert tool.spread(list(range(10)), 3) == [0, 3, 6]
    assert tool.spread([1, 2], 5) == [1, 2] and tool.spread([], 5) == []
