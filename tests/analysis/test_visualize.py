"""tools/visualize.py: from weights and images to pictures, and sentences for what is missing."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.config import instantiate
from PIL import Image

from d2_unsupdet.analysis.detectors import open_detector, open_like
from d2_unsupdet.analysis.pictures import PALETTE
from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.data import get_dataset
from d2_unsupdet.engine.build import build_model
from d2_unsupdet.engine.config import dump_config, load_config
from d2_unsupdet.engine.run import prepare
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import PriorStore
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/quickstart/finetune.py")
SETS = ["dataloader.test.dataset.names=toy_val:images=4:size=64", "train.device=cpu"]


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/visualize.py")


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


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of a pretraining run: a config and weights, random ones."""
    run = tmp_path_factory.mktemp("runs") / "up_detr"
    options = [*SETS, f"train.output_dir={run}", "dataloader.train.dataset.names=toy_val:images=4"]
    config = ROOT / "configs/pretrain/up_detr/toy_deformable_detr.py"
    cfg = prepare(load_config(str(config), options))
    RunCheckpointer(run, keep_last=1).save(
        {"model": build_model(cfg).state_dict(), "iteration": 0}, 0, final=True
    )
    (run / "config.yaml").write_text(dump_config(cfg))
    return run


def test_pretrained_detectors_side_by_side_without_finetuning(tool, pretrained, tmp_path, capsys):
    """Objects without classes, on data with five; next to a supervised one with classes."""
    out = tmp_path / "drawn"
    finetuned = ROOT / "configs/finetune/toy/detr.py"
    other = tmp_path / "detr"
    cfg = prepare(load_config(str(finetuned), [*SETS, f"train.output_dir={other}"]))
    state = {"model": build_model(cfg).state_dict(), "iteration": 0}
    RunCheckpointer(other, keep_last=1).save(state, 0, final=True)
    (other / "config.yaml").write_text(dump_config(cfg))
    command = [str(pretrained), "--top", "4", "--limit", "1", "--out", str(out)]
    tool.main([*command, "--compare", f"finetuned={other}", "random"])
    (picture,) = out.iterdir()
    assert Image.open(picture).width == 4 * 320 + 3 * 8  # truth and three detectors
    assert f"1 pictures in {out}" in capsys.readouterr().out


def test_answers_of_a_pretext_are_objects(pretrained):
    shown = open_detector(pretrained, label="it")
    assert shown.names == ["object"] and shown.class_agnostic
    assert type(shown.detector).__name__ == "DeformableDETR"
    record = get_dataset("toy_val:images=4:size=64")[0]
    found = shown.find(shown.mapper(dict(record)))
    assert len(found) and set(found.pred_classes.tolist()) == {0}
    same = open_like(shown, str(pretrained), label="same")
    assert same.find(same.mapper(dict(record))).scores.equal(found.scores)
    other = open_like(shown, "random", label="other")
    assert other.detector is not shown.detector


def test_a_pretraining_run_without_a_test_set_is_drawn_at_its_largest_size(pretrained, tmp_path):
    config = yaml.safe_load((pretrained / "config.yaml").read_text())
    del config["dataloader"]["test"], config["dataloader"]["evaluator"]
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(config))
    shown = open_detector(tmp_path / "alone.yaml", label="it", weights="random")
    record = get_dataset("toy_val:images=4:size=64")[0]
    assert shown.mapper(dict(record))["image"].shape[-1] == 160  # of 128, 144, 160


@pytest.mark.parametrize("place", ["encoder", "backbone"])
def test_eigen_attention(tool, pretrained, place, tmp_path):
    command = [str(pretrained), "--eigen", place, "--limit", "1", "--out", str(tmp_path)]
    tool.main([*command, "--compare", "random"])
    (picture,) = tmp_path.iterdir()
    assert Image.open(picture).width == 3 * 320 + 2 * 8
    with pytest.raises(UserError, match=f"no level 7: the {place} has 0 to "):
        tool.main([*command, "--level", "7"])


def test_attention_of_two_pretexts_in_one_picture(tool, pretrained, tmp_path):
    command = [str(pretrained), "--attention", "--top", "1", "--best", "1", "--limit", "1"]
    tool.main([*command, "--out", str(tmp_path / "one")])
    tool.main([*command, "--compare", "random", "--out", str(tmp_path / "two")])
    one, two = (Image.open(tmp_path / name / "0000_000000.png") for name in ("one", "two"))
    assert two.width == one.width and two.height == 2 * (one.height + 24) + 8


def test_priors_over_the_refreshes(tool, pretrained, tmp_path, capsys):
    store = PriorStore(pretrained / "priors")
    for number in range(3):
        with store.write(number, {"source": "test"}) as writer:
            for record in get_dataset("toy_val:images=4"):
                boxes = np.float32([[0.1, 0.1, 0.5 + 0.2 * number, 0.9]])
                size = record["width"], record["height"]
                writer.add(record, *size, boxes, np.ones(1, np.float32))
    tool.main([str(pretrained), "--priors", "--limit", "2", "--out", str(tmp_path)])
    first, _ = sorted(tmp_path.iterdir())
    pixels = np.asarray(Image.open(first)).astype(int)
    assert pixels.shape[1] == 3 * 320 + 2 * 8
    edges = [round((0.5 + 0.2 * n) * 320) + n * 328 for n in range(3)]  # the right side of each
    orange = np.abs(pixels - PALETTE[0]).sum(-1) < 12
    assert all(orange[100:250, e - 2 : e + 1].any(1).all() for e in edges)
    with pytest.raises(UserError, match="holds no published boxes"):
        tool.main([str(pretrained), "--priors", str(tmp_path / "none")])


def test_a_run_without_boxes_of_its_own_shows_those_it_reads(tool, tmp_path, capsys):
    config = str(ROOT / "configs/pretrain/detreg/toy_deformable_detr.py")
    names, path = "dataloader.train.dataset.names=", "dataloader.train.mapper.source.path="
    sets = [f"{names}toy_val:images=4", f"{path}{tmp_path / 'read'}"]
    with PriorStore(tmp_path / "read").write(0, {"dataset": "toy_val:images=4"}) as writer:
        for record in get_dataset("toy_val:images=4"):
            size = record["width"], record["height"]
            writer.add(record, *size, np.float32([[0.1, 0.1, 0.5, 0.9]]), np.ones(1, np.float32))
    out = tmp_path / "drawn"
    tool.main([config, "--priors", "--out", str(out), "--set", *sets])
    assert len(list(out.iterdir())) == 4
    capsys.readouterr()
    tool.main([config, "--priors", "--out", str(out), "--limit", "1", "--set", *sets])
    assert "3 pictures were in" in capsys.readouterr().out
    other = [f"{names}toy_train:images=4", sets[1]]
    with pytest.raises(UserError, match="knows none of the 4 images.* made of toy_val:images=4"):
        tool.main([config, "--priors", "--out", str(tmp_path / "none"), "--set", *other])
    assert not (tmp_path / "none").exists()


def test_different_pictures_have_different_folders_which_hold_the_last_ones(
    tool, weights, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folders = [
        tool.folder_of(tool.parse([str(tmp_path), *more]))
        for more in (
            [],
            ["--compare", "random"],
            ["--compare", "other=output/run"],
            ["--images", "a/photos"],
            ["--attention"],
            ["--priors"],
            ["--priors", "output/priors/folder"],
        )
    ]
    assert len(set(folders)) == len(folders)
    assert folders[0] == tmp_path / "predictions" and folders[5] == tmp_path / "pictures_priors"
    command = [CONFIG, "--weights", weights, "--set", *SETS]
    tool.main([*command, "--limit", "3"])
    tool.main([*command, "--limit", "2"])
    assert len(list((tmp_path / "output/predictions").iterdir())) == 2


def test_the_pictures_are_alternatives(tool):
    with pytest.raises(UserError, match="choose one"):
        tool.main(["run", "--eigen", "encoder", "--attention"])


@pytest.mark.parametrize("value", ["7", "-0.1", "nan"])
def test_a_threshold_is_a_score(tool, value):
    with pytest.raises(UserError, match=f"{value} is none: a score is from 0 to 1"):
        tool.main(["run", f"--threshold={value}"])
