"""Whole runs through `train_net.py`: killed and resumed, in two processes, evaluated, refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PRETRAIN, FINETUNE = "configs/quickstart/pretrain_moco.py", "configs/quickstart/finetune.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    random_state = np.random.default_rng(0)
    for number in range(24):
        coarse = random_state.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(coarse, (80, 60)))
    return folder


def pretrain_options(images, output, **changes):
    options = {
        "dataloader.train.dataset.names": f"folder:{images}",
        "dataloader.train.total_batch_size": 8,
        "dataloader.train.mapper.size": 32,
        "dataloader.train.num_workers": 0,
        "model.queue_size": 64,
        "train.max_iter": 16,
        "train.checkpointer.period": 3,
        "train.log_period": 1,
        "train.pictures": 0,
        "train.ema.enabled": "true",
        "train.output_dir": output,
    }
    return [f"{key}={value}" for key, value in (options | changes).items()]


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "train_net.py", "--config-file", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, code=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-4000:]
    return output


def digest(output: Path) -> str:
    return json.loads((output / "summary.json").read_text())["state_sha256"]


def kill_when(process, condition):
    """SIGKILL as soon as `condition()` holds; False if the run ended before."""
    while process.poll() is None:
        if condition():
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            return True
        time.sleep(0.001)
    process.communicate()
    return False


def steps_logged(output: Path) -> int:
    try:
        return (output / "metrics.json").read_text().count("\n")
    except FileNotFoundError:
        return 0


def saving(output: Path) -> bool:
    return any(output.glob(".model_*.tmp"))


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    log = finish(start(PRETRAIN, *pretrain_options(images, output)))
    return output, log


def test_a_run_leaves_what_a_reader_needs(whole):
    output, log = whole
    names = {path.name for path in output.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "command.txt",
        "metrics.json",
        "summary.json",
    } <= names
    assert {"model_final.pth", "last_checkpoint", "export.safetensors", "export.pkl"} <= names
    lines = [json.loads(line)["iteration"] for line in (output / "metrics.json").open()]
    assert lines == list(range(16))
    assert "MoCoV2: 1.33 M trained, 1.33 M not" in log and "24 images, batch 8" in log
    assert digest(output) in log


@pytest.mark.parametrize(
    "changes, resumed",
    [
        ({}, {"dataloader.train.num_workers": 2}),
        *(
            pytest.param(changes, resumed, marks=pytest.mark.slow)
            for changes, resumed in (
                ({"dataloader.train.num_workers": 2}, {"dataloader.train.num_workers": 1}),
                ({"train.amp.enabled": "true"}, {}),
                ({"train.accumulate": 2}, {"dataloader.train.num_workers": 1}),
            )
        ),
    ],
)
def test_a_run_killed_three_times_ends_in_the_same_bits(images, whole, tmp_path, changes, resumed):
    reference = whole[0]
    if set(changes) - {"dataloader.train.num_workers"}:
        reference = tmp_path / "reference"
        finish(start(PRETRAIN, *pretrain_options(images, reference, **changes)))
    output = tmp_path / "killed"
    early, late = random.randint(1, 4), random.randint(8, 13)
    print(f"killed after {early} lines, in a save after 5, after {late}")
    moments = [
        lambda: steps_logged(output) >= early,
        lambda: steps_logged(output) >= 5 and saving(output),
        lambda: steps_logged(output) >= late,
    ]
    options, kills = pretrain_options(images, output, **changes), 0
    for moment in moments:
        kills += kill_when(start(PRETRAIN, "--resume", *options), moment)
        options = pretrain_options(images, output, **(changes | resumed))
    log = finish(start(PRETRAIN, "--resume", *options))
    assert kills == 3 and "resumed after step" in log
    assert digest(output) == digest(reference)
    lines = [json.loads(line)["iteration"] for line in (output / "metrics.json").open()]
    assert lines == list(range(16))


def test_two_processes_train_and_agree_with_torchrun(images, tmp_path):
    digests = []
    for name in ("spawn", "torchrun"):
        options = pretrain_options(images, tmp_path / name, **{"train.max_iter": 4})
        if name == "spawn":
            log = finish(start(PRETRAIN, "--num-gpus", 2, *options))
            assert "device    cpu x 2" in log
        else:
            command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            run = subprocess.run(
                [sys.executable, *command, "train_net.py", "--config-file", PRETRAIN, *options],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert run.returncode == 0, run.stderr[-4000:]
        digests.append(digest(tmp_path / name))
    assert digests[0] == digests[1]


def test_a_loss_that_is_not_finite_on_one_rank_ends_both_and_replays(images, tmp_path):
    # A rate that overflows: the loss is finite at step 0 and not soon after.
    options = pretrain_options(images, tmp_path / "nan", **{"optimizer.lr": 1e30})
    begin = time.monotonic()
    log = finish(start(PRETRAIN, "--num-gpus", 2, *options), code=2)
    assert time.monotonic() - begin < 120
    sentence = next(line for line in log.splitlines() if line.startswith("error: "))
    assert "loss_image_res5 not finite at step" in sentence and ".jpg" in sentence
    capture = next((tmp_path / "nan").glob("capture_*_rank0.pth"))
    replay = subprocess.run(
        [sys.executable, "-m", "d2_unsupdet.engine.replay", str(capture)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "loss_image_res5: nan" in replay.stdout, replay.stderr[-3000:]


def test_saved_config_runs_again(whole, tmp_path):
    output, _ = whole
    again = tmp_path / "again"
    finish(start(output / "config.yaml", f"train.output_dir={again}"))
    assert digest(again) == digest(output)


def test_finetune_evaluates_and_eval_only_repeats_the_score(whole, tmp_path):
    output = tmp_path / "finetune"
    options = [
        "dataloader.train.dataset.names=toy_val",  # the smallest split: scores mean nothing here
        "dataloader.train.total_batch_size=4",
        "dataloader.train.num_workers=0",
        "dataloader.test.dataset.subset=24",
        "train.max_iter=6",
        "train.pictures=2",
        f"train.output_dir={output}",
    ]
    weights = f"train.init_checkpoint={whole[0] / 'export.safetensors'}"
    log = finish(start(FINETUNE, weights, *options))
    assert "100.0% of its parameters used" in log
    at_end = json.loads((output / "summary.json").read_text())["result"]
    assert at_end["bbox"].keys() >= {"AP", "AP50", "AP75"}
    assert len(list((output / "pictures").glob("predictions_*.png"))) == 2
    for how in (["--resume"], [f"train.init_checkpoint={output / 'model_final.pth'}"]):
        log = finish(start(FINETUNE, "--eval-only", *how, *options))
        assert json.loads(log[log.index("\n{") :]) == at_end
    # The saved config names the weights that the run started from: they are not what is meant.
    log = finish(start(output / "config.yaml", "--eval-only"))
    assert json.loads(log[log.index("\n{") :]) == at_end
    assert "have no predictions" not in log  # the images outside the subset are not asked for
    assert f"{output}/model_final.pth" in log and f"detections go to {output}/evaluation" in log


RETINANET = "configs/finetune/coco/retinanet_r50_fpn_1x.py"
SMALL = [
    "model.backbone.bottom_up.stages.depth=18",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "dataloader.test.dataset.names=toy_val",
    "train.precise_bn.num_iter=2",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, more, workers", [(FINETUNE, [], 0), (FINETUNE, [], 2), (RETINANET, SMALL, 0)]
)
def test_a_detector_killed_at_a_random_moment_ends_in_the_same_bits(
    tmp_path, config, more, workers
):
    def options(output):
        return [
            *more,
            "dataloader.train.dataset.names=toy_val",
            "dataloader.train.total_batch_size=4",
            f"dataloader.train.num_workers={workers}",
            "dataloader.test.dataset.subset=8",
            "train.max_iter=12",
            "train.log_period=1",
            "train.checkpointer.period=2",
            "train.eval_period=5",
            "train.ema.enabled=true",
            "train.pictures=0",
            f"train.output_dir={output}",
        ]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(config, *options(whole)))
    moment = random.randint(2, 9)
    print(f"killed after {moment} lines")
    kill_when(start(config, "--resume", *options(killed)), lambda: steps_logged(killed) >= moment)
    finish(start(config, "--resume", *options(killed)))
    assert digest(killed) == digest(whole)
    scores = [json.loads((o / "summary.json").read_text())["result"] for o in (whole, killed)]
    assert str(scores[0]) == str(scores[1])  # as text: classes without objects have nan


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            ["configs/quickstart/pretrian_moco.py"],
            "Did you mean 'configs/quickstart/pretrain_moco.py'",
        ),
        ([PRETRAIN, "train.max_itre=3"], "Unknown config key 'train.max_itre'"),
        ([PRETRAIN, "dataloader.train.dataset.names=coco_2017_trian"], "coco_2017_train"),
        ([PRETRAIN, "dataloader.train.dataset.names=coco_2017_train"], "annotations/"),
        (
            [FINETUNE, "model.roi_heads.num_classes=20"],
            "model.roi_heads.num_classes=20 contradicts data set",
        ),
        ([FINETUNE, "train.init_checkpoint=no/such/file.pth"], "no/such/file.pth"),
        ([PRETRAIN, "--eval-only"], "--eval-only needs dataloader.test"),
        ([PRETRAIN, "--num-gpus", "3"], "total_batch_size=64 cannot be shared by 3"),
        ([PRETRAIN, "train.max_iter=ten"], "train.max_iter='ten' is no length"),
        ([PRETRAIN, "train.amp.enabled=true", "train.amp.dtype=int8"], "is not one of bf16, fp16"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2_before_any_work(
    arguments, sentence, capsys, monkeypatch, tmp_path
):
    import train_net
    from d2_unsupdet.cli import run_tool

    monkeypatch.chdir(ROOT)
    argv = ["train_net.py", "--config-file", *arguments]
    if len(arguments[0].split("/")) == 3 and "pretrian" not in arguments[0]:
        argv.append(f"train.output_dir={tmp_path / 'out'}")
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stopped:
        run_tool(train_net.main)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_not_overwritten(whole, monkeypatch, capsys, images):
    import train_net
    from d2_unsupdet.cli import run_tool

    monkeypatch.chdir(ROOT)
    options = pretrain_options(images, whole[0])
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", PRETRAIN, *options])
    with pytest.raises(SystemExit):
        run_tool(train_net.main)
    assert "already holds a run" in capsys.readouterr().err
