"""The command line of benchmarks/transfer_detectors.py."""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from d2_unsupdet.data import catalog
from d2_unsupdet.priors import PriorStore

from .command import current_commit, rate_of
from .detector_table import draw_curves, table
from .detectors import GROUPS, METHODS, Data, build_chains, reads_boxes, recipe
from .ledger import Ledger
from .runs import RANDOM, ROOT
from .targets import bccd_overrides, cards_overrides, find
from .work import Benchmark, Processes

# Measured best on the embedded set: contrast against the surroundings, suppression, few boxes.
BOXES = "selective-search:ranked=contrast,side=[0.06,0.75],most_aspect=3.5"


def parse(argv: Sequence[str] | None = None, description: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [target for group in GROUPS.values() for target in group]
    rate = rate_of(METHODS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--targets", nargs="+", choices=known, default=known)
    parser.add_argument("--steps", type=int, default=300, help="of every pretraining")
    parser.add_argument("--finetune-steps", type=int, default=250)
    parser.add_argument("--heads-steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16, help="images of a pretraining step")
    parser.add_argument("--labels", type=int, default=50, help="labelled images")
    parser.add_argument("--lr", type=rate, nargs="+", default=[], metavar="METHOD=RATE")
    parser.add_argument("--finetune-lr", type=rate, nargs="+", default=[], metavar="METHOD=RATE")
    for name in ("grocery", "bccd", "cards"):
        help_ = "folder; default: in DETECTRON2_DATASETS, else beside this clone"
        parser.add_argument(f"--{name}", type=Path, help=help_)
    parser.add_argument("--jobs", type=int, default=1, help="runs beside each other")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "transfer_detectors")
    parser.add_argument("--table", action="store_true", help="print the table and do nothing")
    parser.add_argument("--curves", type=Path, help="with --table: also draw them into this PNG")
    parser.add_argument("--quick", action="store_true", help="two steps, one seed, embedded images")
    options = parser.parse_args(argv)
    options.lr, options.finetune_lr = dict(options.lr), dict(options.finetune_lr)
    options.output = options.output.resolve()
    if options.quick:
        options.seeds, options.targets = options.seeds[:1], ["toy"]
        options.steps = options.finetune_steps = options.heads_steps = 2
        options.batch, options.labels = 4, 8
        options.output = Path(tempfile.mkdtemp(prefix="transfer-"))
    return options


def choose_data(options: argparse.Namespace) -> Data:
    """What is there; what is not is said and left out."""
    data = Data(pretrain={}, boxes={}, targets={}, edges={})
    if "toy" in options.targets:
        data.pretrain["toy"] = "toy_unlabeled:images=16" if options.quick else "toy_unlabeled"
        test = "toy_val:images=8" if options.quick else "toy_val"
        data.targets["toy"] = [f"dataloader.test.dataset.names={test}"]
        data.edges["toy"] = (96, 96)
    real = [target for target in options.targets if target != "toy"]
    images = find("grocery", options.grocery, "images") if real else None
    if images is None:
        return data
    data.pretrain["grocery"] = f"folder:{images / 'images'}"
    for target in real:
        name = "playing_cards" if target == "cards" else target
        folder = find(name, getattr(options, target), "annotations/train.json")
        if folder is not None:
            cards = target == "cards"
            found = cards_overrides(folder) if cards else bccd_overrides(folder, options.output)
            data.targets[target], data.edges[target] = found, (96, 128)
    return data


def make_boxes(data: Data, options: argparse.Namespace) -> None:
    """Selective search on every data set that a method needs boxes of, once."""
    if not any(reads_boxes(method) for method in options.methods):
        return
    for group, name in data.pretrain.items():
        store = options.output / f"boxes_{group}"
        data.boxes[group] = store
        if PriorStore(store).generations:
            continue
        where = ["--dataset", name, "--out", str(store), "--processes", str(options.jobs)]
        where += ["--report-images", "0"]
        command = [sys.executable, "tools/extract_priors.py", "--source", BOXES, *where]
        subprocess.run(command, cwd=ROOT, check=True)


def main(description: str | None = None) -> int:
    """0 if everything asked for is finished."""
    options = parse(description=description)
    ledger = Ledger(options.output / "ledger.json")
    if options.table:
        print(table(ledger))
        if options.curves:
            draw_curves(ledger, options.curves)
        return 0
    for method in list(options.methods):
        if method != RANDOM and not (ROOT / recipe(method)).exists():
            print(f"left out: {method}, whose recipe {recipe(method)} does not exist")
            options.methods.remove(method)
    options.output.mkdir(parents=True, exist_ok=True)
    data = choose_data(options)
    for name in data.pretrain.values():
        catalog.check(name)
    make_boxes(data, options)
    runner = Processes(options.threads)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runner.stop())
    benchmark = Benchmark(options.output, ledger, runner, current_commit())
    failed = benchmark.work(build_chains(options, data), options.jobs)
    print(f"\n{table(ledger)}")
    if options.quick:
        shutil.rmtree(options.output)
    return 130 if runner.stopped else int(failed > 0)
