"""tools/quickstart.py with commands that are only noted: what runs, on what, and what stays."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.run import prepare
from d2_unsupdet.errors import UserError
from tests.data.miniature import write_image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def quickstart(monkeypatch, tmp_path):
    """Runs it; returns its commands."""
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "tools/quickstart.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quickstart", module)  # dataclasses look there
    spec.loader.exec_module(module)
    commands = []

    def note(*arguments):
        commands.append(list(arguments))
        values = dict(a.split("=", 1) for a in arguments if "=" in a)
        if "train.output_dir" in values:
            folder = Path(values["train.output_dir"])
            folder.mkdir(parents=True)
            scores = {"result": {"bbox": {"AP": 1.0, "AP50": 2.0}}}
            (folder / "summary.json").write_text(json.dumps(scores))

    monkeypatch.setattr(module, "run", note)

    def start(*arguments):
        commands.clear()
        given = ["quickstart.py", "--output", str(tmp_path / "out"), *arguments]
        monkeypatch.setattr(sys, "argv", given)
        module.main()
        return list(commands)

    return start


def test_boxes_then_a_detector_then_labels_then_the_same_from_scratch(quickstart, tmp_path, capsys):
    boxes, pretrain, finetune, scratch, report = quickstart()
    store = str(tmp_path / "out/boxes/toy_unlabeled")
    assert boxes[:5] == ["tools/extract_priors.py", "--dataset", "toy_unlabeled", "--out", store]
    assert f"dataloader.train.mapper.source.path={store}" in pretrain
    export = f"train.init_checkpoint={tmp_path / 'out/pretrain/export.safetensors'}"
    assert export in finetune and not any("init_checkpoint" in a for a in scratch)
    assert "configs/quickstart/pretrain_detreg.py" in pretrain
    assert report[1] == "d2_unsupdet.analysis.report" and str(tmp_path / "out/scratch") in report
    assert "finetune  AP   1.0" in capsys.readouterr().out


def test_scratch_has_the_budget_of_the_finetuning():
    finetune, scratch = (
        load_config(str(ROOT / f"configs/quickstart/{name}_detector.py"))
        for name in ("finetune", "scratch")
    )
    for tree in (finetune, scratch):
        prepare(tree)
        tree.train.output_dir, tree.optimizer.lr = "", 0.0
    assert finetune == scratch


def test_every_second_of_the_run_can_be_shortened(quickstart):
    _, pretrain, finetune, scratch, _ = quickstart("--steps", "0.1")
    lengths = [
        [a for a in arguments if a.startswith("train.max_iter")]
        for arguments in (pretrain, finetune, scratch)
    ]
    assert lengths == [["train.max_iter=50"], ["train.max_iter=20"], ["train.max_iter=20"]]


def test_own_images_have_boxes_of_their_own(quickstart, tmp_path):
    for name in ("one/images", "two/images"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.jpg").touch()
    found = [quickstart("--data", str(tmp_path / name)) for name in ("one/images",)]
    (tmp_path / "out").rename(tmp_path / "first")
    found.append(quickstart("--data", str(tmp_path / "two/images")))
    stores = [commands[0][4] for commands in found]
    assert stores[0] != stores[1] and all("boxes/images-" in store for store in stores)
    assert f"dataloader.train.dataset.names=folder:{tmp_path / 'one/images'}" in found[0][1]


def test_own_labels_are_trained_on_and_own_tests_are_scored(quickstart, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, classes in (("few", "ab"), ("val", "ab"), ("other", "xb")):
        write_image(tmp_path / "images/a.jpg")
        images = [{"id": 0, "file_name": "a.jpg", "width": 20, "height": 10}]
        content = {"images": images, "annotations": []}
        content["categories"] = [{"id": k, "name": c} for k, c in enumerate(classes)]
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    own = "--data", "images", "--labels", "coco:few.json@images"
    _, pretrain, finetune, scratch, _ = quickstart(*own, "--test", "coco:val.json@images")
    few, val = (f"coco:{tmp_path}/{name}.json@{tmp_path}/images" for name in ("few", "val"))
    for arguments in (finetune, scratch):
        assert f"dataloader.train.dataset.names={few}" in arguments
        assert "dataloader.train.dataset.subset=null" in arguments  # the recipe draws 50
    for arguments in (pretrain, finetune, scratch):
        assert f"dataloader.test.dataset.names={val}" in arguments
    with pytest.raises(UserError, match="only the first has 'a' and only the second has 'x'"):
        quickstart(*own, "--test", "coco:other.json@images")
    with pytest.raises(UserError, match="give both"):
        quickstart(*own)


def test_the_route_of_a_backbone_is_still_there(quickstart):
    pretrain, finetune, scratch, _ = quickstart("--backbone")
    assert "configs/quickstart/pretrain_moco.py" in pretrain
    assert "configs/quickstart/finetune.py" in finetune and finetune[2] == scratch[2]
    assert not any("source.path" in text for text in pretrain)


def test_a_folder_that_is_no_run_is_never_deleted(quickstart, tmp_path):
    (tmp_path / "out/pretrain").mkdir(parents=True)
    (tmp_path / "out/pretrain/thesis.txt").touch()
    with pytest.raises(UserError, match="not a run of this project"):
        quickstart()
    assert (tmp_path / "out/pretrain/thesis.txt").exists()
