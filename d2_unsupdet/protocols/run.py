"""Run a row's commands: what is finished is left as it is, what was begun goes on."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from d2_unsupdet.checkpoint.files import write_json
from d2_unsupdet.data import catalog
from d2_unsupdet.errors import UserError
from d2_unsupdet.protocols.options import Options, check_start
from d2_unsupdet.protocols.rows import ROOT, Row
from d2_unsupdet.protocols.scores import Compared, compare, leave_reference, leave_result
from d2_unsupdet.protocols.stages import COMMAND, Stage, has_boxes, plan

Runner = Callable[[Sequence[str]], int]


def run_words(words: Sequence[str]) -> int:
    """The default runner: a process of its own, in the repository's folder.

    It keeps the lock of `alone`, so that killing us does not free the folder it trains in.
    """
    return subprocess.run([sys.executable, *words], cwd=ROOT, close_fds=False).returncode


def run_row(row: Row, options: Options, *, runner: Runner = run_words) -> list[Compared]:
    """All that is missing of the row, then its numbers beside the paper's (and `result.json`)."""
    stages = plan(row, options)
    check_start(row, options)
    todo = [stage for stage in stages if not finished(stage)]
    for stage in todo:  # before the first hour of work, not after it
        for names in stage.data:
            catalog.check(names)
    for stage in stages:
        if finished(stage):
            same_command(stage)
            print(f"finished: {stage.folder}", flush=True)
        else:
            # The paper's numbers are of the whole length: a trial's page shows none beside its own.
            cite = stage.kind == stages[-1].kind and options.scale == 1
            run_stage(row, stage, cite=cite, runner=runner)
    compared = compare(row, stages)
    leave_result(row, compared, stages, options.folder, options.scale)
    return compared


def run_stage(row: Row, stage: Stage, *, cite: bool, runner: Runner) -> None:
    """One command, resumed if it was begun; `cite` leaves the paper's numbers beside it."""
    with alone(stage.folder):
        words = list(stage.words)
        if begun(stage):
            same_command(stage)
            if stage.kind in ("pretrain", "finetune"):
                words.append("--resume")
        elif stage.kind != "boxes":
            stage.folder.mkdir(parents=True, exist_ok=True)
            write_json(stage.folder / COMMAND, stage.identity)
        if cite and stage.kind != "boxes":
            leave_reference(row, stage.folder)
        print(f"\n$ {stage.command}{' --resume' * ('--resume' in words)}", flush=True)
        code = runner(words)
    if code:
        raise UserError(
            f"'{row.id}' stopped in {stage.folder} (exit code {code}, its message is above); the "
            "same command goes on from there."
        )


def finished(stage: Stage) -> bool:
    """Whether its result is there."""
    if stage.kind != "boxes":
        return stage.result.is_file()
    return has_boxes(stage.folder)


def begun(stage: Stage) -> bool:
    """Whether its command was started here before."""
    return (stage.folder / COMMAND).is_file()


def same_command(stage: Stage) -> None:
    """Raise where a folder was made by another command: its numbers would be another row's."""
    path = stage.folder / COMMAND
    if not path.is_file():
        return
    before, now = json.loads(path.read_text()), stage.identity
    changed = sorted(set(before) ^ set(now))
    if changed:
        raise UserError(
            f"'{stage.folder}' was made by another command ({', '.join(changed[:4])}); choose "
            "another --output, or delete it."
        )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two rows may share a pretraining: the second says so instead of training it twice."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"Another process works in '{folder}'; repeat the command when it is done."
            ) from None
        os.set_inheritable(file.fileno(), True)
        yield
