"""tools/extract_priors.py: a folder, a data set, ranks of torchrun, an array of jobs, mistakes."""

import json
import multiprocessing
import pickle

import cv2
import numpy as np
import pytest

from d2_unsupdet.availability import is_installed
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import PriorStore, StoredBoxes, slurm
from d2_unsupdet.priors.claims import claim
from d2_unsupdet.seeding import generator
from tests.scripts import load_script

extract_priors = load_script("tools/extract_priors.py")


@pytest.fixture
def folder(tmp_path):
    cv2.setNumThreads(1)  # a forked process cannot end those it inherits
    root = tmp_path / "images"
    for i in range(12):
        path = root / "ab"[i % 2] / f"{i // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
        cv2.imwrite(str(path), pixels)
    return root


def run(folder, out, *more, source="random:count=7", processes=0):
    arguments = ["--dataset", str(folder), "--out", str(out), "--source", source]
    arguments += ["--processes", str(processes), "--shard-size", "3", *more]
    extract_priors.main(arguments)
    return PriorStore(out).open()


def test_a_folder_becomes_a_store_that_training_reads(folder, tmp_path, capsys):
    generation = run(folder, tmp_path / "store")
    assert len(generation) == 12 and generation.settings["source"] == "random:count=7"
    record, pixels = {"file_name": str(folder / "b/4.png")}, np.zeros((40, 50, 3), np.uint8)
    boxes = StoredBoxes(path=tmp_path / "store")(record, pixels, generator(0)).boxes
    np.testing.assert_allclose(boxes, boxes.round(), atol=1e-4)  # random boxes are whole pixels
    assert len(boxes) == 7
    printed = capsys.readouterr().out
    assert "12 images, 84 boxes" in printed and "boxes an image: mean 7.0" in printed
    assert (tmp_path / "store/report_0000/contact_sheet.png").is_file()


def test_the_boxes_follow_from_seed_and_name(folder, tmp_path):
    one = run(folder, tmp_path / "one", "--report-images", "0")
    assert run(folder, tmp_path / "two", "--report-images", "0", processes=2).sha256 == one.sha256
    assert run(folder, tmp_path / "three", "--seed", "1").sha256 != one.sha256
    first = [one.lookup(str(folder / f"{k}/0.png"), 50, 40).boxes for k in "ab"]
    assert (first[0] != first[1]).any()


def test_a_data_set_with_labels_gets_a_recall(tmp_path):
    out = tmp_path / "store"
    run("toy_val:size=64:images=4", out, source="selective-search:orders=2")
    report = json.loads((out / "report_0000/quality.json").read_text())
    assert report["objects"] > 4 and report["recall"]["IoU 0.5"]["first 1000"] > 0.3
    (out / "report_0000/quality.json").unlink()
    extract_priors.main(["--report", str(out), "--dataset", "toy_val:size=64:images=4"])
    assert json.loads((out / "report_0000/quality.json").read_text()) == report


def as_rank(rank, folder, out):
    import os

    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    run(folder, out, "--report-images", "0")


def test_ranks_of_torchrun_all_return_when_it_is_published(folder, tmp_path):
    whole = run(folder, tmp_path / "whole", "--report-images", "0")
    context = multiprocessing.get_context("fork")
    out = tmp_path / "ranks"
    ranks = [context.Process(target=as_rank, args=(rank, folder, out)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert PriorStore(out).open().sha256 == whole.sha256


class FakeExecutor:
    """submitit's interface; task 1 dies, and whatever is sent has to be picklable."""

    def __init__(self):
        self.sent = 0

    def map_array(self, function, numbers):
        function = pickle.loads(pickle.dumps(function))
        self.sent = len(numbers)
        return [FakeJob(function, number) for number in numbers]


class FakeJob:
    def __init__(self, function, number):
        self.function, self.number, self.job_id = function, number, f"7_{number}"

    def result(self):
        if self.number == 1:
            raise RuntimeError("the node is gone")
        return self.function(self.number)


def test_an_array_of_jobs_shares_the_work(folder, tmp_path, monkeypatch, caplog):
    settings, executor = {}, FakeExecutor()

    def make(logs, given, *, cluster):
        settings.update(given, cluster=cluster, logs=logs.name)
        return executor

    monkeypatch.setattr(extract_priors, "make_executor", make)
    more = ["--slurm", "3", "--set", "timeout_min=9", "slurm_partition=gpu", "cluster=local"]
    generation = run(folder, tmp_path / "store", *more)
    assert len(generation) == 12 and executor.sent == 3
    assert settings == {
        "timeout_min": 9,
        "slurm_partition": "gpu",
        "cpus_per_task": 1,
        "cluster": "local",
        "logs": "slurm",
    }
    assert "Job 7_1 failed" in caplog.text and "the node is gone" in caplog.text
    assert generation.sha256 == run(folder, tmp_path / "here").sha256


@pytest.mark.skipif(not is_installed("submitit"), reason="submitit is not installed")
def test_processes_that_submitit_starts(folder, tmp_path):
    more = ["--slurm", "2", "--set", "cluster=local", "timeout_min=2"]
    generation = run(folder, tmp_path / "store", *more)
    assert generation.sha256 == run(folder, tmp_path / "here").sha256


def test_without_submitit_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "is_installed", lambda name: False)
    with pytest.raises(UserError, match="pip install submitit"):
        slurm.make_executor(tmp_path, {})


def test_another_source_is_refused_until_restart_throws_the_boxes_away(folder, tmp_path):
    run(folder, tmp_path / "store")
    with pytest.raises(UserError, match="source 'random:count=7' there, 'random:count=3' asked"):
        run(folder, tmp_path / "store", source="random:count=3")
    again = run(folder, tmp_path / "store", "--restart", source="random:count=3")
    assert again.manifest["boxes"] == 36


def test_restart_leaves_what_another_process_works_on(folder, tmp_path):
    claims = PriorStore(tmp_path / "store").partial(0) / "claims"
    claims.mkdir(parents=True)
    with (
        claim(claims / "00001.lock"),
        pytest.raises(UserError, match="being worked on .00001.lock is claimed"),
    ):
        run(folder, tmp_path / "store", "--restart")
    assert claims.is_dir()
    assert len(run(folder, tmp_path / "store", "--restart")) == 12  # a claim that nobody holds


@pytest.mark.parametrize(
    "more, text",
    [
        (["--source", "selective-serch"], "Did you mean 'selective-search'"),
        (["--source", "random:number=3"], "has no 'number'"),
        (["--slurm", "2", "--set", "timeout"], "not of the form key=value"),
        (["--dataset", "nowhere"], "No data set is named 'nowhere'"),
        (["--dataset", "/no/such"], "The folder '/no/such' does not exist"),
    ],
)
def test_mistakes_are_one_sentence(folder, tmp_path, more, text):
    with pytest.raises(UserError, match=text):
        run(folder, tmp_path / "store", *more)
    assert not (tmp_path / "store/generation_0000").exists()
