"""`tools/analyze.py` end to end: tiny checkpoints, eight images, a PNG and a JSON each."""

import json

import pytest
import torch
from PIL import Image

from d2_unsupdet.checkpoint import write_weights
from d2_unsupdet.checkpoint.backbone import Architecture, FrozenResNet, Stage
from d2_unsupdet.errors import UserError
from tests.scripts import load_script

DATA = ["--data", "toy_val:images=8:size=64", "--images", "6", "--size", "64", "--device", "cpu"]
TINY = Architecture(8, tuple(Stage(1, 8 * 2**i) for i in range(4)))


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/analyze.py")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "export.safetensors"
    write_weights(path, FrozenResNet(TINY, seed=7).resnet.state_dict())
    return str(path)


@pytest.mark.parametrize("figure", ["sensitivity", "neighbours", "affinity", "matching"])
def test_two_checkpoints_of_every_figure(figure, tool, weights, tmp_path, capsys):
    tool.main([figure, f"mine={weights}", "random", *DATA, "--out", str(tmp_path / "new/folder")])
    picture = tmp_path / "new/folder" / f"{figure}.png"
    assert f"wrote {picture}" in capsys.readouterr().out
    assert Image.open(picture).width > 400
    told = json.loads(picture.with_suffix(".json").read_text())
    assert told["figure"] == figure and told["settings"]["size"] == 64
    assert list(told["checkpoints"]) == ["mine", "random"]
    assert told["checkpoints"]["mine"]["source"] == weights
    mine, other = ({k: v for k, v in c.items() if k != "source"}
                   for c in told["checkpoints"].values())  # fmt: skip
    assert mine.keys() == other.keys() and mine != other


def test_the_same_command_gives_the_same_numbers(tool, weights, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = str(tmp_path / name)
        tool.main(["sensitivity", weights, *DATA, "--out", out, "--seed", str(seed)])
    a, b, c = ((tmp_path / n / "sensitivity.json").read_text() for n in "abc")
    assert a == b != c


class Brightness(torch.nn.Module):
    """Stands for a method with pseudo-categories."""

    def categories(self, images):
        return (images[:, 0, ::16, ::16] > 127).long()


def test_categories_of_runs(tool, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "model_of_run", lambda folder, allow_unsafe: Brightness())
    run = tmp_path / "run"
    run.mkdir()
    tool.main(["categories", f"one={run}", f"two={run}", *DATA, "--out", str(tmp_path)])
    told = json.loads((tmp_path / "categories.json").read_text())["checkpoints"]
    assert told["one"]["categories_used"] <= 2 and told["one"]["agreement"] > 0.5
    with pytest.raises(UserError, match="no folder of a run: name its --config too"):
        tool.main(["categories", weights, *DATA])


def test_what_is_missing_is_a_sentence(tool, weights, tmp_path):
    unlabelled = ["--data", "toy_unlabeled:images=3:size=64", "--out", str(tmp_path)]
    for figure in ("sensitivity", "affinity"):
        with pytest.raises(UserError, match="toy_unlabeled.* no image with a box"):
            tool.main([figure, weights, *unlabelled])
    with pytest.raises(UserError, match="There is no file nothing.pth"):
        tool.main(["matching", "nothing.pth", *DATA, "--out", str(tmp_path)])
    with pytest.raises(UserError, match="Two checkpoints are called 'a'"):
        tool.main(["matching", f"a={weights}", f"a={weights}", *DATA])
    with pytest.raises(UserError, match="at least 2 images"):
        tool.main(["neighbours", weights, *DATA, "--images", "1"])
    with pytest.raises(UserError):
        tool.main(["matching", weights, "--images", "0"])


def test_without_matplotlib_it_says_so_before_the_work(tool, monkeypatch):
    monkeypatch.setattr("d2_unsupdet.analysis.plots.is_installed", lambda module: False)
    with pytest.raises(UserError, match="pip install 'd2_unsupdet\\[figures\\]'"):
        tool.main(["matching", "nothing.pth"])
