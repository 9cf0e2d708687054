"""A run becomes a folder that loads back with the same bits; what is not whole is refused."""

import json
import os
import shutil

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from d2_unsupdet.analysis.detectors import open_detector
from d2_unsupdet.analysis.look import open_looker
from d2_unsupdet.checkpoint.backbone import load_resnet
from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.checkpoint.files import read_weights, sha256
from d2_unsupdet.checkpoint.load import load_weights
from d2_unsupdet.checkpoint.published import located, read_manifest
from d2_unsupdet.engine.build import build_model
from d2_unsupdet.engine.checks import prepare
from d2_unsupdet.engine.config import dump_config, load_config
from d2_unsupdet.engine.run import evaluate, to_plain
from d2_unsupdet.errors import UserError
from d2_unsupdet.sharing.publish import own_places, publish
from tests.scripts import load_script
from tests.sharing.runs import ROOT, SETS, SMALL, finetuned, pretrained, weights_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finetuned(tmp_path_factory.mktemp("runs") / "my_run")


@pytest.fixture(scope="module")
def pretext(tmp_path_factory):
    return pretrained(tmp_path_factory.mktemp("runs") / "my_pretext")


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    return publish(run, tmp_path_factory.mktemp("published") / "shared", name="A | name").folder


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_the_same_bits_come_back(run, folder):
    assert sorted(os.listdir(folder)) == [
        "README.md",
        "config.yaml",
        "manifest.json",
        "model.safetensors",
    ]
    state, before = read_weights(located(folder)).state, weights_of(run)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)
    told = read_manifest(folder)
    assert told["files"]["model.safetensors"]["sha256"] == sha256(folder / "model.safetensors")
    assert told["classes"][:2] == ["circle", "square"] and told["content"] == "model"


def test_config_starts_nowhere_and_is_complete(run, folder):
    published, own = (load_config(str(place / "config.yaml")) for place in (folder, run))
    assert published.train.output_dir == "output/shared" and published.train.init_checkpoint == ""
    assert published.model == own.model and published.dataloader.test == own.dataloader.test


def test_card_says_what_it_is(folder):
    card = (folder / "README.md").read_text()
    header, body = card.removeprefix("---\n").split("---\n", 1)
    said = yaml.safe_load(header)
    assert said["library_name"] == "d2_unsupdet" and said["pipeline_tag"] == "object-detection"
    metrics = said["model-index"][0]["results"][0]["metrics"]
    assert {m["type"]: m["value"] for m in metrics} == {"bbox/AP": 12.5, "bbox/AP50": 30.0}
    assert "license" not in said and "## Licence" in body
    assert "# A \\| name" in body
    assert sha256(folder / "model.safetensors") in body
    assert "DeformableDETR" in body and "toy_train:images=4:size=64" in body
    assert "2 steps of 2 images, 1.0 epochs of 4 images; AdamW" in body
    assert "torch 2.14.1" in body and "numpy" not in body and "| seed | 3 |" in body
    assert "| bbox/AP50 | 30.00 |" in body and "star" in body and "APl" not in body
    assert "clone its repository" in body and "PHOTOS" not in body
    assert "--config-file shared/config.yaml --eval-only train.init_checkpoint=shared\n" in body


def test_the_same_weights_are_the_same_bytes(run, folder, tmp_path):
    for number in range(3):  # in an order of its own each time, if nobody sorts
        again = publish(run, tmp_path / f"again_{number}", name="A | name").folder
        assert sha256(again / "model.safetensors") == sha256(folder / "model.safetensors")


def test_the_hubs_own_reader_accepts_the_card(folder):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard((folder / "README.md").read_text())
    assert [r.metric_type for r in card.data.eval_results] == ["bbox/AP", "bbox/AP50"]


def test_a_published_detector_is_drawn_scored_and_started_from(folder, tmp_path, capsys):
    shown = open_detector(folder, label="shared")
    state = read_weights(located(folder)).state
    assert all(torch.equal(t, state[name]) for name, t in shown.model.state_dict().items())

    sets = [f"train.init_checkpoint={folder}", f"train.output_dir={tmp_path}", "train.device=cpu"]
    cfg = load_config(str(folder / "config.yaml"), sets)
    cfg = prepare(cfg, eval_only=True)
    evaluate(to_plain(cfg), {"resume": False, "allow_unsafe": False, "weights_chosen": True})
    printed = capsys.readouterr().out
    assert "AP50" in json.loads("{" + printed.split("{", 1)[1])["bbox"]

    report = load_weights(build_model(cfg), str(folder))
    assert report.source_share == 1.0 and not report.new
    assert load_resnet(str(folder)).channels["res5"] > 0


def test_a_pretext_gives_what_transfers(pretext, tmp_path):
    done = publish(pretext, tmp_path / "shared")
    assert done.content == "export" and done.folder == tmp_path / "shared"
    exported = read_weights(pretext / "export.safetensors").state
    state = read_weights(located(done.folder)).state
    assert state.keys() == exported.keys()
    assert all(torch.equal(state[name], exported[name]) for name in state)
    card = (done.folder / "README.md").read_text()
    assert "DeformableDETR pretrained without labels by UPDETR" in card
    assert "--eval-only" not in card and "model-index" not in card
    recipe = "configs/finetune/toy/deformable_detr.py"
    assert f"--config-file {recipe} train.init_checkpoint=shared\n" in card

    config = str(ROOT / "configs/finetune/toy/deformable_detr.py")
    start = [f"train.init_checkpoint={done.folder}", f"train.output_dir={tmp_path / 'new'}"]
    cfg = prepare(load_config(config, [*SETS, *SMALL, *start]))
    model = build_model(cfg)
    assert load_weights(model, cfg.train.init_checkpoint).source_share == 1.0
    assert load_resnet(str(done.folder)).channels["res5"] > 0
    with pytest.raises(UserError, match="pretext exports.*--whole"):
        open_detector(done.folder, label="shared")
    for place in (done.folder, done.folder / "model.safetensors"):  # features it has
        assert open_looker(place).shown is None
    # and what started from it says so, by name and hash
    following = finetuned(tmp_path / "following", init_checkpoint=str(done.folder))
    card = (publish(following, tmp_path / "next").folder / "README.md").read_text()
    assert f"shared of UPDETR on toy_unlabeled:images=4:size=64, SHA-256 {done.sha256}" in card


def test_a_whole_pretext_answers(pretext, tmp_path):
    done = publish(pretext, tmp_path / "shared", whole=True)
    assert done.content == "model"
    shown = open_detector(done.folder, label="shared")
    assert shown.model.state_dict().keys() == weights_of(pretext).keys()


def test_the_best_weights_with_their_own_scores(run, tmp_path):
    best = copied(run, tmp_path)
    state = {name: torch.zeros_like(t) for name, t in weights_of(run).items()}
    with pytest.raises(UserError, match="model_best.pth: it was never scored"):
        publish(best, tmp_path / "shared", best=True)
    RunCheckpointer(best).save_best({"model": state}, 10.0, iteration=0, metric="bbox/AP")
    done = publish(best, tmp_path / "shared", best=True)
    assert not any(t.any() for t in read_weights(located(done.folder)).state.values())
    told = read_manifest(done.folder)
    assert told["scores"] == {"bbox/AP": 10.0, "bbox/AP50": 25.0}
    assert told["scored"] == "after step 1, the best by bbox/AP"


def test_moving_averages_come_first(run, tmp_path):
    copy, state = copied(run, tmp_path), weights_of(run)
    average = {name: t + 1 if t.is_floating_point() else t for name, t in state.items()}
    whole = {"model": state, "ema": {"updates": 2, "average": average}}
    RunCheckpointer(copy).save(whole, 1, final=True)
    published = read_weights(located(publish(copy, tmp_path / "shared").folder)).state
    assert all(torch.equal(published[name], average[name]) for name in average)


def test_paths_of_this_machine_are_named(run, tmp_path):
    copy = copied(run, tmp_path)
    cfg = load_config(str(copy / "config.yaml"))
    cfg.dataloader.test.dataset.names = "coco:/home/me/secret/val.json@/home/me/images"
    (copy / "config.yaml").write_text(dump_config(cfg))
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(
        json.dumps(summary | {"test": cfg.dataloader.test.dataset.names})
    )
    done = publish(copy, tmp_path / "shared")
    assert [p.partition("=")[0] for p in done.paths] == [
        "dataloader.test.dataset.names",
        "dataloader.evaluator.dataset_name",  # which follows it
    ]
    card = (done.folder / "README.md").read_text()
    assert "coco:val.json@images" in card and "secret" not in card
    assert "secret" not in (done.folder / "manifest.json").read_text()


def test_paths_in_a_list_are_named_too(run, tmp_path):
    copy, secret = copied(run, tmp_path), "coco:/home/me/val.json@/home/me/images"
    cfg = load_config(str(copy / "config.yaml"))
    known = cfg.dataloader.train.dataset.names
    cfg.dataloader.train.dataset.names = [known, secret]
    (copy / "config.yaml").write_text(dump_config(cfg))
    assert f"dataloader.train.dataset.names.1={secret}" in publish(copy, tmp_path / "shared").paths


def test_relative_paths_are_too(run, tmp_path, monkeypatch):
    copy = copied(run, tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret/images").mkdir(parents=True)
    (tmp_path / "secret/val.json").write_text('{"images": [], "categories": []}')
    names = "coco:secret/val.json@secret/images"
    cfg = load_config(str(copy / "config.yaml"))
    cfg.dataloader.test.dataset.names = names
    (copy / "config.yaml").write_text(dump_config(cfg))
    told = json.loads((copy / "summary.json").read_text()) | {"test": names, "data": [names, "b"]}
    (copy / "summary.json").write_text(json.dumps(told))
    done = publish(copy, tmp_path / "shared")
    assert f"dataloader.test.dataset.names={names}" in done.paths
    assert all("secret" in path for path in done.paths)
    card = (done.folder / "README.md").read_text()
    assert "coco:val.json@images, b" in card and "secret" not in card


def test_weights_of_another_config_are_a_sentence(folder, tmp_path):
    copy = copied(folder, tmp_path)
    cfg = load_config(str(copy / "config.yaml"))
    cfg.model.query_source.num_queries += 1
    (copy / "config.yaml").write_text(dump_config(cfg))
    with pytest.raises(UserError, match="not of the model of its config.yaml") as raised:
        open_detector(copy, label="shared")
    assert len(str(raised.value)) < 600


def test_without_its_data_a_folder_answers_with_its_own_class_names(folder, tmp_path):
    copy = copied(folder, tmp_path)
    cfg = load_config(str(copy / "config.yaml"))
    cfg.dataloader.test.dataset.names = "coco:/nowhere/val.json@/nowhere/images"
    (copy / "config.yaml").write_text(dump_config(cfg))
    shown = open_detector(copy, label="shared")
    assert shown.names == read_manifest(folder)["classes"] and "circle" in shown.names
    told = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(told | {"classes": []}))
    with pytest.raises(UserError, match="not on disk"):
        open_detector(copy, label="shared")


@pytest.mark.parametrize(
    "missing, said",
    [
        ("config.yaml", "holds no config.yaml"),
        ("summary.json", "is not finished.*--resume"),
        ("model_final.pth", "model_final.pth: it is not finished"),
    ],
)
def test_what_is_incomplete_is_refused(run, tmp_path, missing, said):
    copy = copied(run, tmp_path)
    (copy / missing).unlink()
    with pytest.raises(UserError, match=said):
        publish(copy, tmp_path / "shared")
    assert sorted(os.listdir(tmp_path)) == ["copy"]


def test_broken_or_foreign_weights_are_refused(run, pretext, tmp_path):
    copy = copied(run, tmp_path)
    with open(copy / "model_final.pth", "r+b") as file:
        file.seek(200)
        file.write(b"\0\0\0\0")
    with pytest.raises(UserError, match="is not the file its manifest describes"):
        publish(copy, tmp_path / "shared")
    RunCheckpointer(copy).save({"model": {"x": torch.zeros(1)}}, 1, final=True)
    with pytest.raises(UserError, match="not of the model of the run's config.yaml"):
        publish(copy, tmp_path / "shared")
    other = shutil.copytree(pretext, tmp_path / "other")
    (other / "export.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="not the expected"):
        publish(other, tmp_path / "shared")
    assert sorted(os.listdir(tmp_path)) == ["copy", "other"]  # nothing half-made is left


def test_nothing_is_overwritten(run, folder, tmp_path):
    before = sha256(folder / "manifest.json")
    with pytest.raises(UserError, match="exists and is not empty"):
        publish(run, folder)
    assert sha256(folder / "manifest.json") == before
    with pytest.raises(UserError, match="no folder .*nowhere"):
        publish(tmp_path / "nowhere", tmp_path / "shared")


def test_the_tool_says_what_is_left_to_do(run, tmp_path, capsys):
    tool = load_script("tools/publish.py")
    tool.main([str(run), str(tmp_path / "shared")])
    said = capsys.readouterr().out
    assert sha256(tmp_path / "shared/model.safetensors") in said and "choose a licence" in said


def test_the_folder_of_results_is_everybodys_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("output/run/priors", "output/run_boxes"):
        (tmp_path / folder).mkdir(parents=True)
    places = {"own": "output/run/priors", "another": "output/run_boxes"}
    cfg = OmegaConf.create({"train": {"output_dir": "output/run"}, **places})
    assert own_places(cfg) == ["another=output/run_boxes"]


@pytest.mark.parametrize(
    "subset, told",
    [("2@seed0", "subset 2@seed0"), (0.5, "subset 0.5"), ("ids:/home/me/few.json", "few.json")],
)
def test_a_few_labels_are_not_the_data_set(subset, told, run, tmp_path):
    copy = copied(run, tmp_path)
    cfg = load_config(str(copy / "config.yaml"))
    cfg.dataloader.train.dataset.subset = subset
    (copy / "config.yaml").write_text(dump_config(cfg))
    card = (publish(copy, tmp_path / "shared").folder / "README.md").read_text()
    (sentence,) = [line for line in card.splitlines() if "trained with labels on" in line]
    assert "images=4" in sentence and told in sentence and "/home" not in card
