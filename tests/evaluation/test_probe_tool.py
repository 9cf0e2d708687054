"""tools/probe.py from weights to a table and a JSON file, and sentences for what is wrong."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from d2_unsupdet.checkpoint.backbone import Architecture, FrozenResNet, Stage
from d2_unsupdet.data.sources import register_imagenet
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.probes import read_probe_set
from tests.scripts import load_script

SMALL = Architecture(8, tuple(Stage(1, 8 * 2**i) for i in range(4)))


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/probe.py")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save({"model": FrozenResNet(SMALL).resnet.state_dict()}, path)
    return str(path)


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Images of three colours, which any network tells apart."""
    root = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        for channel in range(3):
            folder = root / split / f"n0{channel}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 60, (40, 48, 3), dtype=np.uint8)
                pixels[..., channel] += 190
                Image.fromarray(pixels).save(folder / f"{i}.png")
        register_imagenet(f"colours_{split}", root, split)
    return ["--train-data", "colours_train", "--test-data", "colours_val"]


COMMON = ["--size", "64", "--workers", "0"]


def run(tool, tmp_path, probe, *arguments):
    tool.main([probe, *arguments, *COMMON, "--out", str(tmp_path)])
    return json.loads((tmp_path / f"{probe}.json").read_text())


def test_two_checkpoints_side_by_side(tool, weights, colours, tmp_path, capsys):
    content = run(tool, tmp_path, "knn", f"a={weights}", "random", "-k", "1", "3", *colours)
    assert content["kind"] == "image" and list(content["checkpoints"]) == ["a", "random"]
    for one in content["checkpoints"].values():
        assert one["results"] == {"k=1": {"accuracy": 100.0}, "k=3": {"accuracy": 100.0}}
    printed = capsys.readouterr().out
    assert "18 items of colours_train and 12 of colours_val: image" in printed
    assert "k=1       k=3" in printed and "a              100.0     100.0" in printed


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--augment"],
        ["--augment", "--unpooled", "--lr", "3"],
        ["--protocol", "places"],
        ["--optimizer", "lars", "--lr", "100"],
    ],
)
def test_linear(tool, weights, colours, tmp_path, more):
    options = ["--epochs", "25" if "--augment" in more else "200", *more, *colours]
    content = run(tool, tmp_path, "linear", f"a={weights}", *options)
    assert content["checkpoints"]["a"]["results"]["conv5"]["accuracy"] == 100.0


def test_places_has_a_protocol_of_its_own(tool):
    def protocol(*more):
        return tool.protocol_of(tool.parse(["linear", "random", *more]))

    places = ["--train-data", "places365_train", "--epochs", "56"]
    dupr = protocol(*places)  # twice OpenSelfSup's
    assert (dupr.lr, dupr.epochs, dupr.drops, dupr.norm) == (0.01, 56, (14, 28, 42), True)
    assert not protocol(*places, "--unpooled").norm and dupr.weight_decay == 1e-4
    assert protocol(*places, "--protocol", "moco").drops == pytest.approx((33.6, 44.8))
    assert protocol().lr == protocol("--optimizer", "sgd").lr == 30
    with pytest.raises(UserError):
        tool.parse(["linear", "random", "--pooled", "--unpooled"])


def test_svm_on_every_stage_and_the_embedded_images(tool, weights, tmp_path):
    data = ["--train-data", "toy_train:images=16:size=64"]
    data += ["--test-data", "toy_val:images=8:size=64"]
    content = run(tool, tmp_path, "svm", weights, "--costs", "1", *data)
    (results,) = (one["results"] for one in content["checkpoints"].values())
    assert list(results) == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert all(0 < found["mAP"] <= 100 and len(found["AP"]) == 8 for found in results.values())
    objects = run(tool, tmp_path, "knn", weights, "--labels", "objects", "-k", "3", *data)
    assert objects["kind"] == "objects"


def test_a_test_image_that_was_trained_on_is_refused(tool, weights, colours, tmp_path):
    same = ["--train-data", "toy_val:images=8:size=64", "--test-data", "toy_val:images=8:size=64"]
    with pytest.raises(UserError, match="share 8 of 8 test images.*Name two sets without common"):
        run(tool, tmp_path, "knn", weights, "-k", "1", *same)
    # The same file under another name of a set, and through a link.
    (tmp_path / "link").symlink_to(read_probe_set("colours_val").files[0].rsplit("/", 2)[0])
    same = ["--train-data", "colours_val", "--test-data", f"imagenet:{tmp_path}/link"]
    with pytest.raises(UserError, match="share 12 of 12"):
        run(tool, tmp_path, "linear", weights, *same)


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_rate_that_is_none_is_a_sentence(tool, weights, tmp_path, rate):
    with pytest.raises(UserError, match="has to be above 0"):
        run(tool, tmp_path, "linear", weights, "--lr", rate)


def test_what_is_wrong_is_a_sentence(tool, weights, colours, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="Two checkpoints are called 'a'"):
        run(tool, tmp_path, "knn", f"a={weights}", f"a={weights}")
    with pytest.raises(UserError, match="No data set is named 'toy_vall'"):
        run(tool, tmp_path, "knn", weights, "--test-data", "toy_vall")
    toy = ["--train-data", "toy_train:images=16:size=64", "--test-data", "toy_val:images=8:size=64"]
    with pytest.raises(UserError, match="needs a class for each image"):
        run(tool, tmp_path, "knn", weights, *toy, "--labels", "image")
    with pytest.raises(UserError, match="needs boxes"):
        run(tool, tmp_path, "knn", weights, *toy[:2], *colours[2:])
    with pytest.raises(UserError):
        run(tool, tmp_path, "knn", weights, "-k", "0")
    monkeypatch.setattr("d2_unsupdet.evaluation.probes.svm.is_installed", lambda name: False)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        run(tool, tmp_path, "svm", weights, *colours)


def test_a_checkpoint_that_is_not_there_is_said_before_data_are_read(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "read_probe_set", lambda *args, **options: pytest.fail("too early"))
    for name, said in (
        ("nope.pth", "There is no file"),
        ("nope/nope", "does not exist"),
        ("random:nope.pth", "There is no file"),
        ("empty", "no folder of a run"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        kind, colon, rest = name.rpartition(":")
        with pytest.raises(UserError, match=said):
            tool.main(["knn", f"{kind}{colon}{tmp_path}/{rest}"])
