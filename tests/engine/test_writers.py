"""Metric lines: none doubled after a resume, none lost, unknown writers refused."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from detectron2.utils.events import EventStorage

from d2_unsupdet.engine.gallery import Drawn, Gallery
from d2_unsupdet.engine.writers import WritersHook, build_writers, cut_metrics
from d2_unsupdet.errors import UserError


def test_lines_of_steps_that_run_again_are_cut(tmp_path):
    path = tmp_path / "metrics.json"
    lines = [json.dumps({"iteration": i, "total_loss": 1.0}) for i in (9, 19, 29)]
    path.write_text("\n".join([*lines, '{"iteration": 39, "tot']))  # the kill cut the last one
    cut_metrics(path, 20)
    assert path.read_text() == "".join(line + "\n" for line in lines[:2])


def test_console_line_and_json_line(tmp_path, caplog):
    caplog.set_level("INFO")
    writers = build_writers([], tmp_path, max_iter=100, start_iter=0, config={})
    scalars = {"total_loss": 1.5, "loss_moco": 1.5, "lr": 0.1, "time": 0.5, "data_time": 0.1}
    with EventStorage(9) as storage:
        storage.put_scalars(**scalars, smoothing_hint=False)
        for writer in writers:
            writer.write()
            writer.close()
    assert (
        "step 10/100  eta 0:00:45  total_loss 1.5  loss_moco 1.5  lr 0.1  0.500 s/step"
        in caplog.text
    )
    line = json.loads((tmp_path / "metrics.json").read_text())
    assert line == {**scalars, "iteration": 9}


def test_weights_and_biases_gets_the_pictures_once(tmp_path, monkeypatch):
    logged = []
    run = SimpleNamespace(log=lambda values, step: logged.append((step, values)))
    fake = SimpleNamespace(init=lambda **_: run, Image=lambda array: ("image", array.shape))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    options = {"max_iter": 9, "start_iter": 0, "config": {}}
    writer = build_writers(["wandb"], tmp_path, **options)[-1]
    gallery = Gallery(tmp_path, [writer])
    with EventStorage(4) as storage:
        storage.put_scalar("bbox/AP", 2.0, smoothing_hint=False)
        picture = Drawn("a.jpg", np.zeros((8, 9, 3), np.uint8), "a.jpg")
        gallery.add("views", picture, iteration=5, storage=storage)
        writer.write()
        writer.write()
    assert logged == [(4, {"bbox/AP": 2.0, "views/a.jpg": ("image", (8, 9, 3))})]


def test_an_evaluation_between_two_lines_is_written_at_once_and_once(tmp_path):
    writers = build_writers([], tmp_path, max_iter=9, start_iter=0, config={})
    hook = WritersHook(writers, period=4)
    hook.trainer = SimpleNamespace(iter=0, max_iter=9)
    path, seen = tmp_path / "metrics.json", []
    with EventStorage(0) as storage:
        for step in range(9):
            hook.trainer.iter = storage.iter = step
            if step in (3, 7, 8):  # what MetricsHook does at each period and at the end
                scalars = {"total_loss": float(step), "lr": 0.1, "time": 0.5, "data_time": 0.1}
                storage.put_scalars(**scalars, smoothing_hint=False)
            storage.put_scalar("fast_rcnn/cls_accuracy", 0.5)  # as Detectron2 does at every step
            if step in (2, 5, 7):
                storage.put_scalar("bbox/AP", 10.0 * step, smoothing_hint=False)
            hook.after_step()
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            seen.append([line["iteration"] for line in lines])
        hook.after_train()
    assert seen[:6] == [[], [], [2], [2, 3], [2, 3], [2, 3, 5]]  # step 5 is there before step 7
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 3, 5, 7, 8]
    assert [line.get("bbox/AP") for line in lines] == [20.0, None, 50.0, 70.0, None]
    assert [line.get("total_loss") for line in lines] == [None, 3.0, None, 7.0, 8.0]


def test_an_unknown_writer_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="'tensorbord' is not one of tensorboard, wandb"):
        build_writers(["tensorbord"], tmp_path, max_iter=1, start_iter=0, config={})
