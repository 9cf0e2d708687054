#!/usr/bin/env python
"""Detection on the CPU with and without torch.compile: one fixed image size, random weights.

python benchmarks/compile_forward.py              # small detectors, 384 x 512, some minutes
python benchmarks/compile_forward.py --quick      # one small image, few rounds
python benchmarks/compile_forward.py --full-size  # ResNet-50 and six layers

`core` is pixels to logits and boxes; `whole` is `model(batch)`, from Detectron2's list of samples
to its list of instances. Graph breaks are where Python runs between two compiled pieces. Each row
has a process and an empty cache of its own, so that compile times are those of a first start.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import ImageList
from torch import Tensor, nn

from d2_unsupdet.detectors.deformable_attention import use_implementation

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ROWS = (  # detector, implementation of its attention, what is compiled
    ("detr", "-", "core"),
    ("detr", "-", "whole"),
    ("deformable_detr", "bags", "core"),
    ("deformable_detr", "bags", "whole"),
    ("deformable_detr", "reference", "core"),
)


@dataclass(frozen=True)
class Row:
    """Milliseconds of a pass, seconds of the first compiled one, breaks, largest difference."""

    eager: float
    compiled: float
    first: float
    breaks: int
    difference: float


def detector(name: str, full_size: bool) -> nn.Module:
    folder = "common/models" if full_size else "finetune/toy"
    model = LazyConfig.load(str(CONFIGS / folder / f"{name}.py")).model
    model.heads.num_classes = 80
    model.query_source.num_queries = 300
    torch.manual_seed(0)
    return instantiate(model).eval()


def work(
    model: nn.Module, part: str, height: int, width: int
) -> tuple[Callable[..., list[Tensor]], object]:
    """What is compiled, and its argument."""
    random = torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8, generator=random)
    batch = [{"image": image, "height": height, "width": width}]

    def core(pixels: Tensor) -> list[Tensor]:
        encoded = model.encode(model.features(ImageList(pixels, [(height, width)])))
        decoded = model.decode(encoded, model.queries(encoded))
        return [decoded.logits[-1], decoded.boxes[-1]]

    def whole(samples: list[dict]) -> list[Tensor]:
        found = model(samples)[0]["instances"]
        return [found.scores, found.pred_boxes.tensor / max(height, width)]

    return (core, model.preprocess(batch).tensor) if part == "core" else (whole, batch)


def measure(name: str, attention: str, part: str, backend: str, options: argparse.Namespace) -> Row:
    torch.set_num_threads(options.threads)
    model = detector(name, options.full_size)
    eager, argument = work(model, part, options.height, options.width)
    compiled = torch.compile(eager, backend=backend)
    with torch.no_grad(), use_implementation("auto" if attention == "-" else attention):
        expected = eager(argument)
        start = time.perf_counter()
        got = compiled(argument)
        first = time.perf_counter() - start
        breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
        compiled(argument)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.rounds):  # in turns, so that both see the same neighbours
            for spent, function in zip(times, (eager, compiled), strict=True):
                start = time.perf_counter()
                function(argument)
                spent.append(1000 * (time.perf_counter() - start))
    difference = max((a - b).abs().max().item() for a, b in zip(expected, got, strict=True))
    return Row(*map(statistics.median, times), first, breaks, difference)


def alone(queue: multiprocessing.Queue, *arguments: object) -> None:
    queue.put(measure(*arguments))


def in_a_process(*arguments: object) -> Row:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        process = context.Process(target=alone, args=(queue, *arguments))
        process.start()
        process.join()
    if process.exitcode:
        raise SystemExit(f"{arguments[0]} ended with code {process.exitcode}.")
    return queue.get()


def backend() -> str:
    """Inductor where its generated C++ can be compiled."""
    if os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"):
        return "inductor"
    print(
        "There is no C++ compiler (g++, clang++ or $CXX), which Inductor needs on a CPU: this "
        "measures aot_eager, which shows breaks and overhead but generates no code."
    )
    return "aot_eager"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small image, three rounds, core")
    parser.add_argument("--full-size", action="store_true", help="ResNet-50 and six layers")
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    rows = ROWS
    if options.quick:
        options.height, options.width, options.rounds = 96, 128, 3
        rows = tuple(row for row in ROWS if row[1:] in (("-", "core"), ("bags", "core")))
    chosen = backend()
    print(f"torch {torch.__version__}, {chosen}, {options.height} x {options.width}, ", end="")
    print(f"{options.threads} thread, median of {options.rounds}")
    print(f"{'detector':17}{'attention':11}{'part':7}{'eager, ms':>10}{'compiled':>10}", end="")
    print(f"{'ratio':>7}{'first, s':>10}{'breaks':>8}{'difference':>12}")
    for name, attention, part in rows:
        row = in_a_process(name, attention, part, chosen, options)
        print(f"{name:17}{attention:11}{part:7}{row.eager:10.1f}{row.compiled:10.1f}", end="")
        print(f"{row.compiled / row.eager:7.2f}{row.first:10.1f}", end="")
        print(f"{row.breaks:8}{row.difference:12.1e}", flush=True)


if __name__ == "__main__":
    main()
