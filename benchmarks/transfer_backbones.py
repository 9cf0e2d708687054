#!/usr/bin/env python
"""What pretraining gives a detector: every method at one budget, then few labels, several seeds.

    python benchmarks/transfer_backbones.py --jobs 2     # embedded images, and bccd where it is
    python benchmarks/transfer_backbones.py --unlabeled folder:../shared/data/grocery/images
    python benchmarks/transfer_backbones.py --methods random dupr --lr dupr=0.03 --seeds 0
    python benchmarks/transfer_backbones.py --scale resnet50    # with a GPU
    python benchmarks/transfer_backbones.py --table             # what is finished, as markdown
    python benchmarks/transfer_backbones.py --quick             # two steps: that it runs

Every run is a `train_net.py` of its own. A finished one is written to a ledger and never repeated,
an unfinished one goes on from its last checkpoint, so the benchmark may be stopped at any time.
Methods share the number of images and steps, the network, the labels and the finetuning; the seed
of a run draws its weights, its order of images and its labels.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from d2_unsupdet.checkpoint.files import write_json
from d2_unsupdet.cli import run_tool
from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.defaults import TRAIN
from d2_unsupdet.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RANDOM = "random"
METHODS = (RANDOM, "moco_v2", "simsiam", "dupr", "dense_siam")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A network and its recipes.

    Args:
        pretrain: config of each method.
        changes: overrides of a method's config.
        finetune: config of the detector.
        size: pixels of a view, unless asked for otherwise.
        edges: target -> short and long side that the detector sees; None leaves the recipe's.
        workers: loading processes of a run; None leaves the recipe's.
        probed: side at which the sensitivity is measured.
        note: in the table's heading.
    """

    pretrain: dict[str, str]
    changes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    finetune: str
    size: int
    edges: dict[str, tuple[int, int] | None]
    workers: int | None
    probed: int
    note: str = ""


SCALES = {
    "quickstart": Scale(
        pretrain={
            "moco_v2": "configs/quickstart/pretrain_moco.py",
            "simsiam": "configs/quickstart/pretrain_simsiam.py",
            "dupr": "configs/quickstart/pretrain_dupr.py",
            "dense_siam": "configs/quickstart/pretrain_dense_siam.py",
        },
        finetune="configs/quickstart/finetune.py",
        size=96,
        # of bccd 320x240 pixels with cells of about 50 and platelets of 15
        edges={"toy": None, "bccd": (120, 160)},
        workers=0,
        probed=128,
    ),
    "resnet50": Scale(
        pretrain={
            "moco_v2": "configs/pretrain/moco_v2/imagenet_r50_200ep.py",
            "simsiam": "configs/pretrain/simsiam/imagenet_r50_100ep.py",
            "dupr": "configs/pretrain/dupr/imagenet_r50_200ep.py",
            "dense_siam": "configs/pretrain/dense_siam/imagenet_r50_200ep.py",
        },
        # Banks below the number of images, and a momentum for hundreds of steps.
        changes={
            "moco_v2": ("model.queue_size=1024", "model.momentum=0.99"),
            "dupr": (
                "model.queue_size=1024",
                "model.patch_queue_size=4096",
                "model.momentum=0.99",
            ),
        },
        finetune="configs/finetune/voc/faster_rcnn_r50_c4_24k.py",
        size=224,
        edges={"toy": (256, 256), "bccd": (240, 320)},
        workers=None,
        probed=224,
        note="ResNet-50, ",
    ),
}
# Where a run lies, how fast it loads and how often it looks do not decide what comes out.
IRRELEVANT = {"num_workers", "output_dir", "eval_period", "log_period", "pictures", "checkpointer"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of `train_net.py`.

    Args:
        kind: "pretrain" or "finetune".
        method: whose backbone it is.
        seed: of the run.
        config: path of the config.
        overrides: `key=value`, all that decides the result.
        quiet: `key=value` that do not decide it (loading workers, periods).
        budget: the row group of the table.
        target: data set of a finetuning.
        start: the pretraining whose export is loaded.
    """

    kind: str
    method: str
    seed: int
    config: str
    overrides: tuple[str, ...]
    quiet: tuple[str, ...] = ()
    budget: str = ""
    target: str = ""
    start: "Run | None" = None

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.kind, self.target, self.method, f"seed{self.seed}")))

    def key(self) -> str:
        """Name and config hash: a changed recipe is another run."""
        return f"{self.name}-{self.digest[:10]}"

    @cached_property
    def config_tree(self) -> dict[str, Any]:
        """The resolved config. Detectron2's loader is for one thread: see `Benchmark.work`."""
        return to_plain(load_config(str(ROOT / self.config), self.overrides))

    @cached_property
    def digest(self) -> str:
        """Hash of the resolved config, and of the pretraining's for a finetuning."""
        # Only what differs from the defaults: a new option of `train` changes no old hash.
        train = {k: v for k, v in self.config_tree["train"].items() if v != TRAIN.get(k)}
        cfg = _without({**self.config_tree, "train": train}, IRRELEVANT)
        before = self.start.digest if self.start else ""
        text = json.dumps(cfg, sort_keys=True, default=str)
        return hashlib.sha256((text + before).encode()).hexdigest()

    @property
    def learning_rate(self) -> float:
        return float(self.config_tree["optimizer"]["lr"])


def _without(node: Any, names: set[str]) -> Any:
    if isinstance(node, dict):
        return {k: _without(v, names) for k, v in node.items() if k not in names}
    return [_without(v, names) for v in node] if isinstance(node, list) else node


@dataclass
class Ledger:
    """Finished runs in a JSON file, written whole after each of them.

    Args:
        path: the file; a missing one is empty.
    """

    path: Path
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        if self.path.exists():
            try:
                self.runs = json.loads(self.path.read_text())["runs"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"'{self.path}' is not a ledger of this benchmark ({error}); move it away."
                ) from error

    def add(self, key: str, entry: dict[str, Any]) -> None:
        with self.lock:
            self.runs[key] = entry
            write_json(self.path, {"runs": self.runs})

    def entries(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self.runs.values() if entry["kind"] == kind]


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
        content = json.loads(summary.read_text())
        entry = {
            "kind": run.kind,
            "method": run.method,
            "seed": run.seed,
            "target": run.target,
            "budget": run.budget,
            "lr": (run.start or run).learning_rate if run.method != RANDOM else None,
            "digest": run.digest,
            "config": run.config,
            "overrides": list(run.overrides),
            "seconds": round(seconds if not begun else content["seconds"], 1),
            "resumed": begun,  # then the seconds are those of the last part
            "result": content["result"].get("bbox", {}),
            "folder": folder.name,
            "commit": self.commit,
        }
        self.ledger.add(key, entry)
        scores = " ".join(f"{k} {entry['result'][k]:.1f}" for k in ("AP", "AP50") if run.target)
        print(f"finished {run.name}: {entry['seconds']:.0f} s {scores}", flush=True)


def build_chains(options: argparse.Namespace, targets: dict[str, list[str]]) -> list[list[Run]]:
    """For each seed and method its pretraining and what follows; seeds outermost, so that a partial
    table compares equals."""
    scale = SCALES[options.scale]
    quiet = ["train.pictures=0", "train.log_period=50"]
    scoring = ["train.eval_period=0", "train.checkpointer.period=200"]
    if scale.workers is not None:
        quiet.append(f"dataloader.train.num_workers={scale.workers}")
        scoring.append(f"dataloader.test.num_workers={scale.workers}")
    budget = (
        f"{scale.note}{options.steps} steps of {options.batch} images at {options.size} px from "
        f"{_short(options.unlabeled)}; finetuned {options.finetune_steps} steps on "
        f"{options.labels} labelled images"
    )
    chains = []
    for seed in options.seeds:
        for method in options.methods:
            common: dict[str, Any] = {"method": method, "seed": seed, "budget": budget}
            chain = []
            if method != RANDOM:
                rate = options.lr.get(method)
                overrides = [
                    f"dataloader.train.dataset.names={options.unlabeled}",
                    f"dataloader.train.mapper.size={options.size}",
                    f"dataloader.train.total_batch_size={options.batch}",
                    f"train.max_iter={options.steps}",
                    f"train.seed={seed}",
                    *scale.changes.get(method, ()),
                    *([f"optimizer.lr={rate}"] if rate else []),
                ]
                chain.append(
                    Run(
                        kind="pretrain",
                        config=scale.pretrain[method],
                        overrides=tuple(overrides),
                        quiet=(*quiet, "train.checkpointer.period=200"),
                        **common,
                    )
                )
            for target, changes in targets.items():
                overrides = [
                    *changes,
                    f"dataloader.train.dataset.subset={options.labels}@seed{seed}+every_class",
                    f"train.max_iter={options.finetune_steps}",
                    f"train.seed={seed}",
                ]
                run = Run(
                    kind="finetune",
                    target=target,
                    config=scale.finetune,
                    overrides=tuple(overrides),
                    quiet=(*quiet, *scoring),
                    start=chain[0] if method != RANDOM else None,
                    **common,
                )
                chain.append(run)
            chains.append(chain)
    return chains


def _short(name: str) -> str:
    """A data set by its name, a folder by its last two parts: tables travel, paths do not."""
    prefix, colon, path = name.partition(":")
    return f"{prefix}:{'/'.join(Path(path).parts[-2:])}" if colon and "/" in path else name


def bccd_overrides(folder: Path, output: Path) -> list[str]:
    """Labels from the training images, scores on all others, which come in two files."""
    parts = [json.loads((folder / f"annotations/{n}.json").read_text()) for n in ("val", "test")]
    rest = {**parts[0]}
    rest["images"] = [image for part in parts for image in part["images"]]
    joined = [box for part in parts for box in part["annotations"]]
    rest["annotations"] = [{**box, "id": number} for number, box in enumerate(joined, start=1)]
    path = output / "bccd_rest.json"
    write_json(path, rest)
    train = folder / "annotations/train.json"
    return [
        f"dataloader.train.dataset.names=coco:{train}@{folder / 'images'}",
        f"dataloader.test.dataset.names=coco:{path}@{folder / 'images'}",
    ]


def resized(short: int, long: int) -> list[str]:
    """Overrides of the sides that the detector sees."""
    first = "mapper.augmentations.0"
    return [
        f"dataloader.train.{first}.short_edge_length=[{short}]",
        f"dataloader.train.{first}.max_size={long}",
        f"dataloader.test.{first}.short_edge_length={short}",
        f"dataloader.test.{first}.max_size={long}",
    ]


def choose_targets(options: argparse.Namespace) -> dict[str, list[str]]:
    """Overrides of the finetuning by target; a target that is not on disk is said and left out."""
    found: dict[str, list[str]] = {}
    for name in options.targets:
        if name == "toy":
            # The small recipe is written for it.
            data = "dataloader.{}.dataset.names=toy_{}"
            train, test = data.format("train", "train"), data.format("test", "val")
            own = options.scale == "quickstart"
            found[name] = [f"{test}:images=8"] if options.quick else [] if own else [train, test]
        elif (options.bccd / "annotations" / "train.json").is_file():
            found[name] = bccd_overrides(options.bccd.resolve(), options.output)
        else:
            print(f"left out: bccd, which is not in '{options.bccd}' (--bccd)")
            continue
        edges = SCALES[options.scale].edges[name]
        found[name] += resized(*edges) if edges else []
    return found


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


def table(ledger: Ledger) -> str:
    """The finished part as markdown, one table a budget: mean ± standard deviation (seeds)."""
    scores = ledger.entries("finetune")
    blocks = []
    for budget in dict.fromkeys(entry["budget"] for entry in scores):
        own = [entry for entry in scores if entry["budget"] == budget]
        blocks.append(f"{budget}:\n\n{_one_table(own, _others(ledger, budget))}")
    return "\n\n".join(blocks) or "No finetuning is finished yet."


def _others(ledger: Ledger, budget: str) -> list[dict[str, Any]]:
    kinds = ("pretrain", "slope")
    return [e for kind in kinds for e in ledger.entries(kind) if e["budget"] == budget]


def _one_table(scores: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    targets = sorted({entry["target"] for entry in scores}, reverse=True)
    head = ["start", "rate"]
    for target in targets:
        head += [f"{target} AP", "AP50", "AP over random"]
    head += ["sensitivity slope", "pretraining s"]
    order = {method: place for place, method in enumerate(METHODS)}
    rows = sorted(
        {(e["method"], e["lr"]) for e in scores}, key=lambda row: (order[row[0]], row[1] or 0)
    )
    lines = [_line(head), _line(["---"] * len(head))]
    for method, rate in rows:
        cells = [method, f"{rate:g}" if rate is not None else ""]
        for target in targets:
            own = _by_seed(scores, method, rate, target)
            base = _by_seed(scores, RANDOM, None, target)
            gains = [own[s]["AP"] - base[s]["AP"] for s in own if s in base and method != RANDOM]
            cells.append(_spread(r["AP"] for r in own.values()))
            cells.append(_spread(r["AP50"] for r in own.values()))
            cells.append(_spread(gains, sign="+"))
        mine = [e for e in others if (e["method"], e["lr"]) == (method, rate)]
        cells.append(_spread((e["slope"] for e in mine if e["kind"] == "slope"), digits=3))
        whole = [e["seconds"] for e in mine if e["kind"] == "pretrain" and not e["resumed"]]
        cells.append(f"{mean(whole):.0f}" if whole else "")
        lines.append(_line(cells))
    return "\n".join(lines)


def _by_seed(
    scores: list[dict[str, Any]], method: str, rate: float | None, target: str
) -> dict[int, dict[str, float]]:
    """Later entries win: a recipe that was changed since."""
    wanted = (method, rate, target)
    return {e["seed"]: e["result"] for e in scores if (e["method"], e["lr"], e["target"]) == wanted}


def _spread(values: Iterable[float], *, sign: str = "", digits: int = 1) -> str:
    found = list(values)
    if not found:
        return ""
    text = f"{mean(found):{sign}.{digits}f}"
    if len(found) > 1:
        text += f" ± {stdev(found):.{digits}f}"
    return f"{text} ({len(found)})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rate(text: str) -> tuple[str, float]:
    method, _, value = text.partition("=")
    try:
        if method in METHODS[1:] and float(value) > 0:
            return method, float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"'{text}' is not method=rate, such as moco_v2=0.06")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--targets", nargs="+", choices=["toy", "bccd"], default=["toy", "bccd"])
    parser.add_argument("--unlabeled", default="toy_unlabeled", help="any data set name")
    parser.add_argument("--steps", type=int, default=300, help="of every pretraining")
    parser.add_argument("--batch", type=int, default=64, help="images of a pretraining step")
    parser.add_argument("--size", type=int, help="pixels of a view; default: the scale's")
    parser.add_argument(
        "--scale",
        choices=SCALES,
        default="quickstart",
        help="resnet50, with 224-pixel views and a Faster R-CNN C4, needs a GPU",
    )
    parser.add_argument("--finetune-steps", type=int, default=300)
    parser.add_argument("--labels", type=int, default=50, help="labelled images")
    parser.add_argument("--lr", type=_rate, nargs="+", default=[], metavar="METHOD=RATE")
    parser.add_argument("--bccd", type=Path, default=ROOT / "../shared/data/bccd")
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "transfer_backbones")
    parser.add_argument("--table", action="store_true", help="print the table and do nothing")
    parser.add_argument("--quick", action="store_true", help="two steps, one seed, no bccd")
    options = parser.parse_args(argv)
    options.lr = dict(options.lr)
    options.output = options.output.resolve()
    options.size = options.size or SCALES[options.scale].size
    prefix, colon, path = options.unlabeled.partition(":")
    if prefix == "folder" and colon:  # found from here, whatever the folder of the runs
        options.unlabeled = f"folder:{Path(path).resolve()}"
    if options.quick:
        options.seeds, options.targets = options.seeds[:1], ["toy"]
        options.steps = options.finetune_steps = 2
        options.batch, options.size, options.labels = 8, 64, 8
        options.methods = [m for m in options.methods if m in (RANDOM, "moco_v2", "dense_siam")]
        options.output = Path(tempfile.mkdtemp(prefix="transfer-"))
    return options


def current_commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() if not found.returncode else ""


def main() -> int:
    """0 if everything asked for is finished."""
    options = parse()
    ledger = Ledger(options.output / "ledger.json")
    if options.table:
        print(table(ledger))
        return 0
    for method, recipe in SCALES[options.scale].pretrain.items():
        if method in options.methods and not (ROOT / recipe).exists():
            print(f"left out: {method}, whose recipe {recipe} does not exist")
            options.methods.remove(method)
    options.output.mkdir(parents=True, exist_ok=True)
    runner = Processes(options.threads)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runner.stop())
    chains = build_chains(options, choose_targets(options))
    benchmark = Benchmark(options.output, ledger, runner, current_commit())
    failed = benchmark.work(chains, options.jobs)
    if not runner.stopped:
        images, side = 8 if options.quick else 200, SCALES[options.scale].probed
        measure_slopes(benchmark, chains, images=images, side=side)
    print(f"\n{table(ledger)}")
    if options.quick:
        shutil.rmtree(options.output)
    return 130 if runner.stopped else int(failed > 0)


if __name__ == "__main__":
    run_tool(main)
