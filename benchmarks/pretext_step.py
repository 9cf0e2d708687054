#!/usr/bin/env python
"""One training step of each box pretext (forward, backward, optimizer) on the same detector.

    python benchmarks/pretext_step.py                              # Conditional DETR, ResNet-50
    python benchmarks/pretext_step.py --detector deformable_detr_two_stage
    python benchmarks/pretext_step.py --quick                      # two small images, one layer

Time is the median of interleaved steps, so that a busy moment meets all; peak memory is that of a
process of its own (CUDA's allocator, or what the process grew by); FLOPs are PyTorch's count of
matrix products and convolutions. Ratios are to UP-DETR. The supplement of Siamese DETR has 1.29 and
1.02 for it, 1.13 and 1.20 for DETReg (time, memory; Conditional DETR, four images, on a GPU).

Each method sees the images through its own mapper: Siamese DETR two overlapping views of each, or
with --views two of every second one, since the supplement does not say what it counts. Backbones
are frozen, as in the papers.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T
from detectron2.utils.events import EventStorage
from torch.utils.flop_counter import FlopCounterMode

from d2_unsupdet.cli import run_tool
from d2_unsupdet.data import PriorMapper, SiamesePairMapper
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import RandomBoxes
from d2_unsupdet.seeding import seed_everything

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "configs/common/models"
BOXES = {"up_detr": 10, "detreg": 30, "siamese_detr": 10, "join_det": 30}  # of the papers
SUPPLEMENT = {"siamese_detr": (1.29, 1.02), "detreg": (1.13, 1.20)}
Step = Callable[[], None]


def build(method: str, options: argparse.Namespace) -> Step:
    """A step of the method; `UserError` where the detector cannot take it."""
    seed_everything(0, "benchmark")
    detector = LazyConfig.load(str(MODELS / f"{options.detector}.py")).model
    if options.quick:
        detector.encoder.num_layers = detector.decoder.num_layers = 1
    wrap = LazyConfig.load(str(MODELS / f"{method}.py"), method)
    model = instantiate(wrap(detector)).to(options.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    batch = samples(method, options)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with EventStorage():
            torch.stack(list(model(batch).values())).sum().backward()
        optimizer.step()

    return step


def samples(method: str, options: argparse.Namespace) -> list[dict]:
    """The batch as the method's mapper makes it; the images are the same for all."""
    source, edge = RandomBoxes(count=100), min(options.height, options.width)
    long = max(options.height, options.width)
    if method == "siamese_detr":
        mapper = SiamesePairMapper(source=source, short_edges=[edge], max_size=long)
    else:
        resize = T.ResizeShortestEdge([edge], long, sample_style="choice")
        count = BOXES[method]
        mapper = PriorMapper(source=source, augmentations=[resize], count=count, exactly=count)
    random = np.random.default_rng(0)
    made = []
    with tempfile.TemporaryDirectory() as folder:
        halved = options.views and method == "siamese_detr"
        for number in range(options.batch // 2 if halved else options.batch):
            path = f"{folder}/{number}.png"
            coarse = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            cv2.imwrite(path, cv2.resize(coarse, (options.width, options.height)))
            np.random.seed(number)
            made.append(mapper({"file_name": path, "image_id": number}))
    return made


def seconds(step: Step, device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def memory(method: str, options: argparse.Namespace) -> float:
    """GB at the peak of two steps (the second has the optimizer's state)."""
    before = peak_resident()
    step = build(method, options)
    for _ in range(2):
        seconds(step, options.device)
    if options.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return peak_resident() - before


def peak_resident() -> float:
    """GB that this process has had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # there getrusage begins with what the parent process had
        line = next(t for t in status.read_text().splitlines() if t.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def memory_of_a_process(method: str) -> float:
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", method]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        raise UserError(f"{method}: {found.stderr.strip().splitlines()[-1]}")
    return json.loads(found.stdout.strip().splitlines()[-1])


def flops(step: Step) -> float:
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    steps = {method: build(method, options) for method in options.methods}
    counted = {method: flops(step) for method, step in steps.items()}  # the warm-up too
    times: dict[str, list[float]] = {method: [] for method in steps}
    for _ in range(options.rounds):
        for method, step in steps.items():
            times[method].append(seconds(step, options.device))
    del steps
    return {
        method: {
            "seconds": statistics.median(times[method]),
            "memory": memory_of_a_process(method),
            "flops": counted[method],
        }
        for method in options.methods
    }


def table(found: dict[str, dict[str, float]], device: str) -> str:
    """Markdown; the first method is the one of the ratios."""
    lines = ["| pretext | s/step | ratio | GB | ratio | TFLOPs | ratio | supplement |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    base = next(iter(found.values()))
    for method, own in found.items():
        ratio = {key: own[key] / base[key] for key in own}
        theirs = SUPPLEMENT.get(method)
        beside = f"{theirs[0]} time, {theirs[1]} memory" if theirs else ""
        if theirs and device == "cuda":
            kept = ratio["seconds"] <= theirs[0] and ratio["memory"] <= theirs[1]
            beside += ": at or below" if kept else ": ABOVE"
        lines.append(
            f"| {method} | {own['seconds']:.3f} | {ratio['seconds']:.2f} | {own['memory']:.2f} | "
            f"{ratio['memory']:.2f} | {own['flops'] / 1e12:.3f} | {ratio['flops']:.2f} | {beside} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two small images, one layer")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--detector", default="conditional_detr", help="of configs/common/models")
    parser.add_argument("--methods", nargs="+", choices=list(BOXES), default=list(BOXES))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--views", action="store_true", help="two views count as two images")
    parser.add_argument("--height", type=int, default=400)
    parser.add_argument("--width", type=int, default=533)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", choices=list(BOXES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.batch, options.height, options.width, options.rounds = 2, 128, 128, 1
    return options


def main() -> None:
    options = parse()
    if options.memory_of:
        print(json.dumps(memory(options.memory_of, options)))
        return
    torch.backends.cudnn.benchmark = False
    print(
        f"{options.detector}, {options.batch} images of {options.height} x {options.width}, "
        f"{options.device}, {torch.get_num_threads()} threads"
    )
    print(table(measure(options), options.device))


if __name__ == "__main__":
    run_tool(main)
