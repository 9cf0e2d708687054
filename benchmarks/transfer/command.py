"""The command line of the benchmark."""

import argparse
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from .backbones import METHODS, SCALES, build_chains
from .ledger import Ledger
from .runs import RANDOM, ROOT
from .slopes import measure_slopes
from .table import table
from .targets import choose_targets
from .work import Benchmark, Processes


def rate_of(methods: Sequence[str]) -> Callable[[str], tuple[str, float]]:
    """Reads `method=rate` of a command line."""

    def read(text: str) -> tuple[str, float]:
        method, _, value = text.partition("=")
        try:
            if method in methods and float(value) > 0:
                return method, float(value)
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"'{text}' is not method=rate, such as {methods[1]}=0.06")

    return read


def parse(argv: Sequence[str] | None = None, description: str | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
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
    parser.add_argument(
        "--lr", type=rate_of(METHODS[1:]), nargs="+", default=[], metavar="METHOD=RATE"
    )
    parser.add_argument("--bccd", type=Path, help="folder; default: bccd in DETECTRON2_DATASETS")
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


def main(description: str | None = None) -> int:
    """0 if everything asked for is finished."""
    options = parse(description=description)
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
