"""The k-NN probe during pretraining: written to the metrics, and the run never knows of it."""

import json
import shutil
from pathlib import Path

import pytest

from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.run import prepare, train
from d2_unsupdet.errors import UserError

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/quickstart/pretrain_moco.py")
PROBE = [
    "train.knn_probe.period=2",
    "train.knn_probe.train=toy_train:images=24:size=32",
    "train.knn_probe.test=toy_val:images=12:size=32",
    "train.knn_probe.k=5",
]
OPTIONS = {"resume": False, "allow_unsafe": False}


def config(output, *more):
    sets = [
        "dataloader.train.dataset.names=toy_unlabeled:images=16:size=32",
        "dataloader.train.total_batch_size=4",
        "dataloader.train.mapper.size=32",
        "dataloader.train.num_workers=0",
        "model.queue_size=8",
        "train.max_iter=5",
        "train.log_period=1",
        "train.checkpointer.period=3",
        "train.pictures=0",
        "train.ema.enabled=true",
        f"train.output_dir={output}",
    ]
    return prepare(load_config(CONFIG, [*sets, *more]))


def lines(output):
    text = (output / "metrics.json").read_text()
    return {line["iteration"]: line for line in map(json.loads, text.splitlines())}


def digest(output):
    return json.loads((output / "summary.json").read_text())["state_sha256"]


def test_a_probed_run_ends_in_the_bits_of_a_plain_one_and_resumes_to_them(tmp_path):
    train(to_plain(config(tmp_path / "plain")), OPTIONS)
    train(to_plain(config(tmp_path / "probed", *PROBE)), OPTIONS)
    assert digest(tmp_path / "probed") == digest(tmp_path / "plain")

    found = {
        step: line["knn/mAP"]
        for step, line in lines(tmp_path / "probed").items()
        if "knn/mAP" in line
    }
    assert {1, 3, 4} <= set(found)  # after steps 2, 4 and the last
    assert all(0 < value <= 100 for value in found.values())
    assert "knn/mAP" not in str(lines(tmp_path / "plain"))

    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "probed", cut)
    for name in ("summary.json", "model_final.pth"):
        (cut / name).unlink()
    (cut / "last_checkpoint").write_text("model_0000002.pth")
    again = config_resumed(cut)
    train(to_plain(again), {**OPTIONS, "resume": True})
    assert digest(cut) == digest(tmp_path / "plain")
    assert lines(cut)[4]["knn/mAP"] == found[4]


def config_resumed(output):
    return prepare(
        load_config(str(output / "config.yaml"), [f"train.output_dir={output}"]), resume=True
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.knn_probe.labels=some", "labels='some' is not one of"),
        ("train.knn_probe.train=toy_trian", "No data set is named 'toy_trian'"),
        ("train.knn_probe.test=toy_unlabeled", "has no labels|no thing_classes|needs"),
        ("train.knn_probe.k=0", "must be at least 1"),
        ("train.knn_probe.periods=3", "periods"),
        ("train.knn_probe.period=often", "train.knn_probe.period"),
    ],
)
def test_bad_settings_are_sentences_before_any_work(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        config(tmp_path, *PROBE, change)
