"""A run loses at most one period, whatever happens to its files."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from d2_unsupdet.checkpoint import checkpointer as module
from d2_unsupdet.checkpoint import files
from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer, plain_state, verify
from d2_unsupdet.errors import UserError


def state(value):
    return {"model": {"w": torch.full((64,), float(value))}, "step": value}


def numbered(folder):
    return sorted(p.name for p in folder.glob("model_*.pth"))


@pytest.fixture
def run(tmp_path):
    """A run with the checkpoints 9, 19 and 29."""
    checkpointer = RunCheckpointer(tmp_path)
    for iteration in (9, 19, 29):
        checkpointer.save(state(iteration), iteration)
    return tmp_path


def test_a_fresh_folder_has_no_state(tmp_path):
    assert RunCheckpointer(tmp_path).latest() is None
    assert RunCheckpointer(tmp_path / "new").latest() is None


def test_names_are_detectron2s(run):
    RunCheckpointer(run).save(state(39), 39, final=True)
    names = ["model_0000009.pth", "model_0000019.pth", "model_0000029.pth", "model_final.pth"]
    assert numbered(run) == names
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    assert RunCheckpointer(run).latest()["iteration"] == 39


def test_detectron2_reads_the_folder(run):
    from detectron2.checkpoint import DetectionCheckpointer

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(64))

    checkpointer = DetectionCheckpointer(Net(), save_dir=str(run))
    rest = checkpointer.resume_or_load("", resume=True)
    assert rest["iteration"] == 29
    assert checkpointer.model.w[0] == 29


def test_the_last_k_stay_with_their_manifests(tmp_path):
    checkpointer = RunCheckpointer(tmp_path, keep_last=2)
    for iteration in range(5):
        checkpointer.save(state(iteration), iteration)
    kept = ["model_0000003.pth", "model_0000004.pth"]
    assert numbered(tmp_path) == kept
    assert sorted(p.name for p in tmp_path.glob("*.json")) == [f"{name}.json" for name in kept]
    everything = RunCheckpointer(tmp_path, keep_last=0)
    for iteration in range(5, 9):
        everything.save(state(iteration), iteration)
    assert len(numbered(tmp_path)) == 6


def test_pruning_after_going_back_keeps_what_was_just_written(run):
    (run / "last_checkpoint").write_text("model_0000009.pth")
    checkpointer = RunCheckpointer(run, keep_last=1)
    assert checkpointer.latest()["step"] == 9
    checkpointer.save(state(14), 14)
    assert numbered(run) == ["model_0000014.pth", "model_0000019.pth", "model_0000029.pth"]
    assert RunCheckpointer(run).latest()["step"] == 14


def test_a_newest_file_cut_anywhere_falls_back_loudly(run, caplog):
    newest = run / "model_0000029.pth"
    content = newest.read_bytes()
    for size in range(0, len(content), 97):
        newest.write_bytes(content[:size])
        caplog.clear()
        assert RunCheckpointer(run).latest()["step"] == 19
        assert "BROKEN CHECKPOINT" in caplog.text
        assert str(newest) in caplog.text


def test_one_flipped_bit_is_found(run):
    newest = run / "model_0000029.pth"
    content = bytearray(newest.read_bytes())
    for position in range(0, len(content), 211):
        content[position] ^= 1
        newest.write_bytes(content)
        content[position] ^= 1
        assert RunCheckpointer(run).latest()["step"] == 19


def test_it_walks_back_further_and_stops_when_nothing_is_left(run):
    for name in ("model_0000029.pth", "model_0000019.pth"):
        (run / name).write_bytes(b"")
    assert RunCheckpointer(run).latest()["step"] == 9
    (run / "model_0000009.pth").unlink()
    with pytest.raises(UserError, match="None of the 2 checkpoints"):
        RunCheckpointer(run).latest()


@pytest.mark.parametrize(
    "tag", [b"", b"   \n", b"model_", b"\x00\xff\xfe", b"model_0000555.pth", b"../x", None]
)
def test_a_bad_tag_gives_the_newest_file_loudly(run, caplog, tag):
    if tag is None:
        (run / "last_checkpoint").unlink()
    else:
        (run / "last_checkpoint").write_bytes(tag)
    assert RunCheckpointer(run).latest()["step"] == 29
    assert "BROKEN CHECKPOINT" in caplog.text
    assert "last_checkpoint" in caplog.text


@pytest.mark.parametrize("manifest", [b"", b"[]", b"{}", b'{"size": 1}', b"\x80", None])
def test_a_bad_manifest(run, caplog, manifest):
    path = run / "model_0000029.pth.json"
    if manifest is None:  # a checkpoint brought from elsewhere: it loads, so it is taken
        path.unlink()
    else:
        path.write_bytes(manifest)
    assert RunCheckpointer(run).latest()["step"] == (29 if manifest is None else 19)
    assert "model_0000029.pth" in caplog.text


class Killed(BaseException):
    """The process ends here."""


def kill_after(patch, bytes_left, replaces_left=10**9):
    """From some byte or rename on nothing reaches the disk any more, not even the cleaning up."""
    left = {"bytes": bytes_left, "replaces": replaces_left}
    write, unlink, replace = files._HashingFile.write, files.Path.unlink, os.replace

    def dying_write(self, data):
        write(self, bytes(data)[: max(left["bytes"], 0)])
        left["bytes"] -= len(data)
        if left["bytes"] < 0:
            raise Killed
        return len(data)

    def dying_replace(*paths):
        left["replaces"] -= 1
        if left["replaces"] < 0:
            raise Killed
        replace(*paths)

    def dying_unlink(self, **rest):
        if min(left.values()) < 0:
            raise OSError("dead")
        unlink(self, **rest)

    patch.setattr(files._HashingFile, "write", dying_write)
    patch.setattr(files.Path, "unlink", dying_unlink)
    patch.setattr(os, "replace", dying_replace)


KILLS = [*((size, 10**9) for size in range(0, 4000, 131)), *((10**9, n) for n in range(4))]


@pytest.mark.parametrize("what", ["numbered", "rewrite", "final", "best"])
def test_a_writer_killed_anywhere_loses_nothing(tmp_path, monkeypatch, what):
    endings = []
    for number, kill in enumerate(KILLS):
        folder = tmp_path / str(number)
        run = RunCheckpointer(folder)
        run.save(state(9), 9)
        run.save(state(19), 19, final=what == "final")
        run.save_best(state(19), 0.5, iteration=19)
        with monkeypatch.context() as patch:
            kill_after(patch, *kill)
            try:
                if what == "best":
                    run.save_best(state(29), 0.9, iteration=29)
                else:
                    run.save(state(29), 19 if what == "rewrite" else 29, final=what == "final")
                endings.append("saved")
            except (Killed, RuntimeError):
                endings.append("killed")

        resumed = RunCheckpointer(folder)
        step, score = resumed.latest()["step"], resumed.best.score
        best_step = torch.load(folder / "model_best.pth", weights_only=True)["step"]
        assert (score, best_step) in ((0.5, 19), (0.9, 29))
        if what == "best":
            assert step == 19
            assert endings[-1] == "killed" or score == 0.9
        else:
            assert score == 0.5
            assert step == 29 or (step == 19 and endings[-1] == "killed")
        resumed.save(state(39), 39)
        assert not list(folder.glob(".*.tmp"))
    assert {"saved", "killed"} == set(endings)


@pytest.mark.parametrize("kind", ["write", "fsync"])
def test_a_full_disk_loses_nothing(run, monkeypatch, kind):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {p.name: p.read_bytes() for p in run.iterdir()}
    checkpointer = RunCheckpointer(run, keep_last=1)
    with monkeypatch.context() as patch:
        if kind == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            opened = open

            class FullFile:
                def __init__(self, *args):
                    self.file = opened(*args)

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    self.file.close()

                def write(self, data):
                    full()

            patch.setattr(files, "open", lambda *args: FullFile(*args), raising=False)
        with pytest.raises(UserError, match="No space left on device"):
            checkpointer.save(state(39), 39)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    assert RunCheckpointer(run).latest()["step"] == 29
    checkpointer.save(state(39), 39)
    assert RunCheckpointer(run).latest()["step"] == 39


def test_a_disk_that_fills_up_between_file_and_tag(run, monkeypatch):
    real = files.atomic_write

    def sometimes_full(path, writer, **rest):
        if path.name == "last_checkpoint":
            raise UserError("full")
        return real(path, writer, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_write", sometimes_full)
        with pytest.raises(UserError):
            RunCheckpointer(run, keep_last=1).save(state(39), 39)
    assert RunCheckpointer(run).latest()["step"] == 29  # the tagged one; none was pruned


def test_the_best_score_survives_a_resume(run):
    first = RunCheckpointer(run)
    assert first.save_best(state(19), 0.9, iteration=19, metric="bbox/AP")
    assert not first.save_best(state(20), 0.9, iteration=20, metric="bbox/AP")
    resumed = RunCheckpointer(run)
    assert (resumed.best.score, resumed.best.iteration) == (0.9, 19)
    assert not resumed.save_best(state(29), 0.1, iteration=29, metric="bbox/AP")
    assert not resumed.save_best(state(29), float("nan"), iteration=29, metric="bbox/AP")
    assert resumed.save_best(state(29), 0.95, iteration=29, metric="bbox/AP")
    assert torch.load(run / "model_best.pth", weights_only=True)["step"] == 29
    assert verify(run / "model_best.pth").score == 0.95


def test_the_best_save_does_not_move_the_tag(run):
    checkpointer = RunCheckpointer(run)
    checkpointer.save_best(state(25), 1.0, iteration=25)
    assert (run / "last_checkpoint").read_text() == "model_0000029.pth"
    assert checkpointer.latest()["step"] == 29
    (run / "last_checkpoint").write_text("model_best.pth")  # as Detectron2's own hook leaves it
    assert checkpointer.latest()["step"] == 29


def test_a_best_by_another_metric_or_a_broken_one_starts_anew(run, caplog):
    RunCheckpointer(run).save_best(state(9), 90.0, iteration=9, metric="a")
    assert RunCheckpointer(run).save_best(state(9), 0.3, iteration=9, metric="b")
    assert "by a" in caplog.text
    (run / "model_best.pth").write_bytes(b"half")
    assert RunCheckpointer(run).save_best(state(9), 0.1, iteration=9, metric="b")
    assert "best score starts anew" in caplog.text


def test_best_can_be_switched_off(run):
    assert not RunCheckpointer(run, keep_best=False).save_best(state(9), 1.0, iteration=9)
    assert not (run / "model_best.pth").exists()


def test_stale_temporary_files_go_and_others_stay(run):
    (run / ".model_0000039.pth.0123abcd.tmp").write_bytes(b"half")
    (run / ".mine.tmp").write_bytes(b"x")
    (run / "log.txt").write_text("x")
    RunCheckpointer(run).save(state(39), 39)
    assert not (run / ".model_0000039.pth.0123abcd.tmp").exists()
    assert (run / ".mine.tmp").exists()
    assert (run / "log.txt").exists()


def test_the_manifest_tells_size_and_hash(run):
    path = run / "model_0000029.pth"
    found = json.loads((run / "model_0000029.pth.json").read_text())
    assert (found["size"], found["sha256"]) == (path.stat().st_size, files.sha256(path))
    assert found["iteration"] == 29


def test_the_same_state_gives_the_same_bytes(tmp_path):
    paths = [RunCheckpointer(tmp_path / n).save(state(1), 1) for n in "ab"]
    assert files.sha256(paths[0]) == files.sha256(paths[1])


def test_state_is_tensors_and_primitives():
    net = torch.nn.BatchNorm1d(3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    value = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "best": np.float64(0.5),
        "shape": torch.Size([1, 2]),
        "none": None,
    }
    plain = plain_state(value)
    assert type(plain["best"]) is float
    assert plain["shape"] == (1, 2)
    assert isinstance(plain["model"], OrderedDict)
    assert plain["model"]._metadata[""] == {"version": 2}
    assert type(plain["schedule"]["milestones"]) is dict
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\] is a set"):
        plain_state({"a": [1, {2}]})


def test_a_refused_state_leaves_the_folder_alone(run):
    before = sorted(os.listdir(run))
    with pytest.raises(TypeError):
        RunCheckpointer(run).save({"model": {}, "x": object()}, 39)
    assert sorted(os.listdir(run)) == before


ROOT = Path(__file__).parents[2]
LOOP = """
import sys, torch
from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
torch.set_num_threads(1)
checkpointer = RunCheckpointer(sys.argv[1], keep_last=2)
found = checkpointer.latest()
start = found["iteration"] + 1 if found else 0
print("from", start, flush=True)
for i in range(start, 10**6):
    state = {"model": {"w": torch.full((200_000,), float(i))}, "step": i}
    checkpointer.save(state, i)
    checkpointer.save_best(state, float(i), iteration=i)
    print("saved", i, flush=True)
"""


def test_sigkill_while_saving_costs_at_most_one_save(tmp_path):
    command = [sys.executable, "-c", LOOP, str(tmp_path)]
    last = -1
    for attempt in range(4):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            started = process.stdout.readline()
            for _ in range(2 + attempt):
                process.stdout.readline()
            time.sleep(0.003 * attempt)
            process.send_signal(signal.SIGKILL)
            lines = process.stdout.read().split("\n")
        assert int(started.split()[1]) > last
        found = RunCheckpointer(tmp_path).latest()
        said = [int(line.split()[1]) for line in lines if line.startswith("saved") and line[6:]]
        last = max([last, *said[:-1]])
        assert found["iteration"] >= last
        assert found["model"]["w"].eq(found["step"]).all()
        best = RunCheckpointer(tmp_path).best
        assert best is not None
        assert best.score >= last - 1
        last = found["iteration"]


def test_logging_names_the_file_resumed_from(run, caplog):
    with caplog.at_level(logging.INFO):
        RunCheckpointer(run).latest()
    assert "reading " in caplog.text and "esum" not in caplog.text
    assert "model_0000029.pth" in caplog.text
