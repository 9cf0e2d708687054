"""Doing the runs: processes, chains beside each other, and the sensitivity of what came out."""

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

from d2_unsupdet.errors import UserError

from .ledger import Ledger
from .runs import RANDOM, ROOT, Run
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
        kept = run.kind == "finetune" or self.weights(run).exists()
        if key in self.ledger.runs and kept:
            self.compare(run)
            return
        summary, begun, start = folder / "summary.json", folder.exists(), time.monotonic()
        if not summary.exists():
            print(f"{'resumed' if begun else 'started':8} {run.name}", flush=True)
            arguments = ["--config-file", run.config, "--resume", *run.overrides, *run.quiet]
            arguments.append(f"train.output_dir={folder}")
            if run.start is not None:
                arguments.append(f"train.init_checkpoint={self.weights(run.start)}")
            self.runner(arguments, folder / "console.txt")
        seconds = time.monotonic() - start
        content, result = read_summary(summary, scored=run.kind == "finetune")
        entry: dict[str, Any] = {
            "kind": run.kind,
            "method": run.method,
            "seed": run.seed,
            "target": run.target,
            "budget": run.budget,
            "rates": run.rates,
            "lr": (run.start or run).learning_rate if run.method != RANDOM else None,
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
        scores = " ".join(f"{k} {entry['result'][k]:.1f}" for k in ("AP", "AP50") if run.target)
        print(f"finished {run.name}: {entry['seconds']:.0f} s {scores}", flush=True)

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


def read_summary(path: Path, *, scored: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run wrote at its end, and its box scores; a RuntimeError if it is not a whole one."""
    again = f"delete '{path.parent}' to repeat it"
    try:
        content = json.loads(path.read_text())
        result = content["result"].get("bbox", {})
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


def measure_slopes(
    benchmark: Benchmark, chains: Sequence[Sequence[Run]], *, images: int, side: int
) -> None:
    """Spatial sensitivity of every finished backbone: of res4, on objects of toy_val, by IoU.

    A random backbone takes the architecture of a pretrained one, so it needs one to be there.
    """
    from d2_unsupdet.analysis.samples import read_samples
    from d2_unsupdet.analysis.sensitivity import sensitivity
    from d2_unsupdet.checkpoint.backbone import load_resnet

    sources = {}
    for chain in chains:
        first = chain[0]
        if first.kind == "pretrain" and benchmark.weights(first).exists():
            sources[f"slope-{first.key()}"] = (first, str(benchmark.weights(first)), 0)
    some = next(iter(sources.values()), None)
    for chain in chains:
        if chain[0].method == RANDOM and some is not None:
            seed = chain[0].seed
            key = f"slope-random-seed{seed}-{some[0].budget}"
            sources[key] = (chain[0], f"{RANDOM}:{some[1]}", seed)
    todo = {key: found for key, found in sources.items() if key not in benchmark.ledger.runs}
    samples = read_samples("toy_val", images, seed=0, boxes=True) if todo else []
    for key, (run, source, seed) in todo.items():
        found = sensitivity(load_resnet(source, seed=seed), samples, level="res4", side=side)
        rate = run.learning_rate if run.kind == "pretrain" else None
        about = {"method": run.method, "seed": run.seed, "budget": run.budget, "lr": rate}
        benchmark.ledger.add(key, {"kind": "slope", **about, "slope": found.slope})
