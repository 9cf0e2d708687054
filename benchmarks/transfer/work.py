"""Doing the runs: processes, and chains beside each other."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2_unsupdet.analysis.runs import read_run
from d2_unsupdet.checkpoint.files import write_json
from d2_unsupdet.errors import UserError

from .ledger import Ledger
from .runs import FOUND, RANDOM, ROOT, Run
from .targets import data_of

Runner = Callable[[Sequence[str], Path], None]


class Processes:
    """Runs `train_net.py` with one thread a process; `stop` ends all of them.

    Args:
        threads: of each process.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self.alive: set[subprocess.Popen] = set()
        self.stopped = False

    def __call__(self, arguments: Sequence[str], log: Path) -> None:
        """Raise a RuntimeError with the end of its log if it fails."""
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "passive",
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "train_net.py", *arguments],
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            self.alive.add(process)
            code = process.wait()
            self.alive.discard(process)
        if code:
            end = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise RuntimeError(f"exit code {code}: {' | '.join(end)} (all of it: {log})")

    def stop(self) -> None:
        self.stopped = True
        for process in list(self.alive):
            process.terminate()


@dataclass
class Benchmark:
    """Chains of runs, one a method and seed, beside each other.

    Args:
        output: folder of the runs and the ledger.
        ledger: what is finished.
        runner: does a run; `Processes` outside of tests.
        commit: recorded with each run.
    """

    output: Path
    ledger: Ledger
    runner: Runner
    commit: str = ""

    def folder(self, run: Run) -> Path:
        return self.output / run.key()

    def weights(self, run: Run) -> Path:
        return self.folder(run) / "export.safetensors"

    def work(self, chains: Sequence[Sequence[Run]], jobs: int) -> int:
        """Do what is not in the ledger; returns how many runs failed (their followers too)."""
        for run in (run for chain in chains for run in chain):
            run.key()  # loads every config before there is a second thread
            data_of(run)
        with ThreadPoolExecutor(jobs) as pool:
            return sum(pool.map(self.chain, chains))

    def chain(self, runs: Sequence[Run]) -> int:
        failed: set[str] = set()
        for run in runs:
            if getattr(self.runner, "stopped", False):
                break
            if run.start is not None and run.start.name in failed:
                failed.add(run.name)
                print(f"skipped  {run.name}: its pretraining failed", flush=True)
                continue
            try:
                self.do(run)
            except (RuntimeError, UserError) as error:
                failed.add(run.name)
                if not getattr(self.runner, "stopped", False):
                    print(f"FAILED   {run.name}: {error}", flush=True)
        return len(failed)

    def do(self, run: Run) -> None:
        """Run unless the ledger has it; resume what was begun."""
        key, folder = run.key(), self.folder(run)
        kept = run.scored or self.weights(run).exists()
        if key in self.ledger.runs and kept:
            self.compare(run)
            known = self.ledger.runs[key]
            if known["budget"] != run.budget:  # shared by two budgets: it stands with the last
                self.ledger.add(key, {**known, "budget": run.budget})
            return
        summary, begun, start = folder / "summary.json", folder.exists(), time.monotonic()
        if not summary.exists():
            print(f"{'resumed' if begun else 'started':8} {run.name}", flush=True)
            self.runner(self.arguments(run), folder / "console.txt")
            if run.kind == FOUND and not summary.exists():
                summarize(folder / "console.txt", summary, time.monotonic() - start)
        seconds = time.monotonic() - start
        content, result = read_summary(summary, scored=run.scored)
        entry: dict[str, Any] = {
            "kind": run.kind,
            "method": run.method,
            "seed": run.seed,
            "target": run.target,
            "budget": run.budget,
            "rates": run.rates,
            "lr": (run.start or run).learning_rate if run.method != RANDOM else None,
            "own_lr": run.learning_rate,
            "steps": run.config_tree["train"]["max_iter"],
            "curve": read_curve(folder),
            "digest": run.digest,
            "config": run.config,
            "overrides": list(run.overrides),
            "seconds": round(seconds if not begun else content["seconds"], 1),
            "resumed": begun,  # then the seconds are those of the last part
            "result": result,
            "data": data_of(run),
            "folder": folder.name,
            "commit": self.commit,
        }
        self.ledger.add(key, entry)
        scores = " ".join(f"{k} {entry['result'][k]:.1f}" for k in ("AP", "AP50") if run.scored)
        print(f"finished {run.name}: {entry['seconds']:.0f} s {scores}", flush=True)

    def arguments(self, run: Run) -> list[str]:
        """Of `train_net.py`."""
        mode = "--eval-only" if run.kind == FOUND else "--resume"
        arguments = ["--config-file", run.config, mode, *run.overrides, *run.quiet]
        arguments.append(f"train.output_dir={self.folder(run)}")
        if run.start is not None:
            whole = self.folder(run.start) / "model_final.pth"
            weights = whole if run.kind == FOUND else self.weights(run.start)
            arguments.append(f"train.init_checkpoint={weights}")
        return arguments

    def compare(self, run: Run) -> None:
        """Say so if the files of a finished run are others by now."""
        before = self.ledger.runs[run.key()].get("data", {})
        for name, now in data_of(run).items():
            if before.get(name, now) != now:
                print(
                    f"changed  {run.name}: '{name}' was {before[name]} and is {now}; its result is "
                    "that of the old files, another --output starts anew",
                    flush=True,
                )


def summarize(console: Path, summary: Path, seconds: float) -> None:
    """The scores that `--eval-only` printed last, as a run leaves them."""
    text = console.read_text(errors="replace")
    try:
        found = json.loads(text[text.rindex("\n{\n") :])
        result = {task: {k: v for k, v in s.items() if _number(v)} for task, s in found.items()}
    except (ValueError, AttributeError) as error:
        raise RuntimeError(f"it printed no scores ({error}); all of it: {console}") from error
    write_json(summary, {"result": result, "seconds": seconds})


def read_curve(folder: Path) -> list[tuple[int, float]]:
    """(steps, AP) at every evaluation of a run."""
    points = read_run(folder).curves.get("bbox/AP", []) if folder.is_dir() else []
    return [(iteration + 1, round(value, 3)) for iteration, value in points]


def read_summary(path: Path, *, scored: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run wrote at its end, and its box scores; a RuntimeError if it is not a whole one."""
    again = f"delete '{path.parent}' to repeat it"
    try:
        content = json.loads(path.read_text())
        scores = content["result"]
        result = scores.get("bbox") or scores.get("bbox_agnostic", {})
        float(content["seconds"])
        missing = [name for name in ("AP", "AP50") if scored and not _number(result.get(name))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RuntimeError(f"it left no readable summary.json ({what}); {again}") from error
    if missing:
        raise RuntimeError(f"its summary.json has no box {' and no box '.join(missing)}; {again}")
    return content, result


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
