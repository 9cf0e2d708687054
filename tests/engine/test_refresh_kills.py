"""A JoinDet run that is killed before, during and after a refresh ends in the same bits."""

import os
import signal
import subprocess
import sys

import pytest

from d2_unsupdet.priors.store import PriorStore
from tests import test_train_net as runs

CONFIG = "configs/pretrain/join_det/toy_deformable_detr.py"
STEPS = 4  # an epoch: 8 images, two a step
# Images of a refresh and steps take their time, so that no moment is too short to be met.
SLOW = """
import runpy, sys, time
sys.path.insert(0, "")
from d2_unsupdet.engine.trainer import Trainer
from d2_unsupdet.priors.store import GenerationWriter

def slowed(function, seconds):
    def slow(*arguments, **options):
        time.sleep(seconds)
        return function(*arguments, **options)
    return slow

GenerationWriter.add = slowed(GenerationWriter.add, 0.2)
Trainer.run_step = slowed(Trainer.run_step, 0.2)
sys.argv = ["train_net.py", *sys.argv[1:]]
runpy.run_path("train_net.py", run_name="__main__")
"""


def options(output):
    return [
        "dataloader.train.dataset.subset=8",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=1",
        "dataloader.test=null",
        "dataloader.evaluator=null",
        "model.detector.encoder.num_layers=1",
        "model.detector.decoder.num_layers=1",
        "train.max_iter=10",
        "train.refresh.period=1 epochs",
        "train.checkpointer.period=3",
        "train.log_period=1",
        "train.writers=[]",
        "train.pictures=0",
        f"train.output_dir={output}",
    ]


def start_slowly(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, "--config-file", CONFIG, *arguments],
        cwd=runs.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_killed_before_during_and_after_a_refresh_it_ends_in_the_same_bits(tmp_path):
    whole = tmp_path / "whole"
    runs.finish(runs.start(CONFIG, *options(whole)))
    output = tmp_path / "killed"
    priors = output / "priors"
    first, partial, second = (
        priors / name for name in ("generation_0000", "generation_0001.partial", "generation_0001")
    )
    # When to kill, and what must be there then.
    moments = [
        (lambda: (priors / "generation_0000.partial").exists(), lambda: not first.exists()),
        (lambda: runs.steps_logged(output) >= 3, lambda: not partial.exists()),
        (partial.exists, lambda: not second.exists()),
        (second.exists, lambda: runs.steps_logged(output) <= STEPS),  # no checkpoint names it
        (
            lambda: (priors / "generation_0002.partial").exists(),
            lambda: not (priors / "generation_0002").exists(),
        ),
        (lambda: runs.steps_logged(output) >= 9, lambda: (priors / "generation_0002").exists()),
    ]
    for number, (moment, expected) in enumerate(moments):
        process = start_slowly("--resume", *options(output))
        assert runs.kill_when(process, moment), number
        assert process.returncode == -signal.SIGKILL and expected(), number
    runs.finish(runs.start(CONFIG, "--resume", *options(output)))
    assert runs.digest(output) == runs.digest(whole)
    assert PriorStore(priors).generations == [0, 1, 2]
    assert not list(priors.glob("*.partial"))
    for number in (0, 1, 2):
        PriorStore(priors).open(number).verify()
        hashes = [PriorStore(o / "priors").open(number).sha256 for o in (whole, output)]
        assert hashes[0] == hashes[1]
