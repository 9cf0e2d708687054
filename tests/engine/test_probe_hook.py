"""The k-NN probe during pretraining: written to the metrics, and the run never knows of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from d2_unsupdet.checkpoint.backbone import load_resnet
from d2_unsupdet.data import catalog
from d2_unsupdet.data.images import read_image
from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.probe_hook import KnnProbeHook
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


TRAIN, TEST = "toy_train:images=24:size=32", "toy_val:images=12:size=32"


def features(net, name):
    """Mean of res5 for every image of a toy set, and (images, classes) whether a class is shown."""
    records = catalog.get_dataset(name)
    pixels = np.stack([read_image(r["file_name"]).transpose(2, 0, 1) for r in records])
    shown = np.zeros((len(records), 8))
    for row, record in enumerate(records):
        shown[row, [found["category_id"] for found in record["annotations"]]] = 1
    return net(torch.from_numpy(pixels))["res5"].mean((2, 3)).numpy().astype(np.float64), shown


def mean_precision(net, train, test, k):
    """mAP in per cent of neighbours, image by image."""
    (known, shown), (unknown, truth) = features(net, train), features(net, test)
    known, unknown = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (known, unknown))
    scores = []
    for row in unknown:
        nearest = np.argsort(-(known @ row))[:k]
        weights = np.exp(known[nearest] @ row / 0.07)
        scores.append(weights @ shown[nearest] / weights.sum())
    scores, found = np.array(scores), []
    for column in range(8):
        if truth[:, column].any():
            ranked = truth[np.argsort(-scores[:, column], kind="stable"), column]
            precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
            best = np.maximum.accumulate(precision[::-1])[::-1]
            found.append(best[ranked == 1].mean())
    return 100 * np.mean(found)


def test_the_score_is_the_test_sets_under_the_moving_average(tmp_path, monkeypatch):
    nets, probe = [], KnnProbeHook.probe

    def recorded(self, net):
        nets.append(net)
        return probe(self, net)

    act = KnnProbeHook.act

    def undisturbed(self):
        before = torch.get_rng_state()
        act(self)
        assert torch.equal(before, torch.get_rng_state())

    monkeypatch.setattr(KnnProbeHook, "probe", recorded)
    monkeypatch.setattr(KnnProbeHook, "act", undisturbed)
    probe_all = [change.replace("k=5", "k=24") for change in PROBE]  # so many: no ties of scores
    train(to_plain(config(tmp_path, *probe_all, "optimizer.lr=1.0")), OPTIONS)
    average = load_resnet(tmp_path / "export.safetensors").resnet.state_dict()
    raw = torch.load(tmp_path / "model_final.pth", weights_only=False)["model"]
    kernel = raw["query.backbone.stem.conv1.weight"]
    seen = nets[-1].resnet.state_dict()
    assert all(torch.equal(seen[name], value) for name, value in average.items())
    assert (kernel - seen["stem.conv1.weight"]).abs().max() > 0.01  # the run's own are far away

    score = lines(tmp_path)[4]["knn/mAP"]
    assert score == pytest.approx(mean_precision(nets[-1], TRAIN, TEST, 24), abs=1e-3)
    for swapped in ((TRAIN, TRAIN), (TEST, TEST), (TEST, TRAIN)):
        assert abs(score - mean_precision(nets[-1], *swapped, 24)) > 0.1


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
        ("train.knn_probe.test=toy_train:images=24:size=32", "share 24 of 24 test images"),
        ("train.knn_probe.k=0", "must be at least 1"),
        ("train.knn_probe.periods=3", "periods"),
        ("train.knn_probe.period=often", "train.knn_probe.period"),
    ],
)
def test_bad_settings_are_sentences_before_any_work(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        config(tmp_path, *PROBE, change)
