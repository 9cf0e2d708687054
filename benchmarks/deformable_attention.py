#!/usr/bin/env python
"""Time and peak memory of deformable attention, forward and with the backward pass.

python benchmarks/deformable_attention.py                  # an image of 800 x 1,066 pixels, the CPU
python benchmarks/deformable_attention.py --device cuda --dtype bf16 --batch 2
python benchmarks/deformable_attention.py --quick          # a quarter of the pixels

`stacked` is the usual formulation in plain torch, which holds the samples of all levels in one
buffer; the others are ours. Each implementation has a process of its own. The time is the median of
the repetitions, on a CPU that of the processor on one thread, so that other work changes it little;
the peak is the largest resident size less what there was before, on CUDA the allocator's.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_unsupdet.detectors.deformable_attention import deformable_attention, use_implementation

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HEADS, WIDTH, POINTS = 8, 32, 4
CASES = {"encoder": (4, None), "decoder, 300 queries": (4, 300), "DETA decoder": (5, 900)}


def stacked(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Samples of all levels side by side, then one weighted sum."""
    batch, count = locations.shape[:2]
    maps = value.float().split([h * w for h, w in shapes], dim=1)
    samples = []
    for level, ((h, w), flat) in enumerate(zip(shapes, maps, strict=True)):
        image = flat.permute(0, 2, 3, 1).reshape(batch * HEADS, WIDTH, h, w)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(image, grid, align_corners=False))
    weights = weights.flatten(3).transpose(1, 2).flatten(0, 1).unsqueeze(1)
    result = (torch.cat(samples, dim=-1) * weights).sum(-1)
    return result.view(batch, HEADS * WIDTH, count).transpose(1, 2).to(value.dtype)


def inputs(options: argparse.Namespace) -> tuple[list[tuple[int, int]], list[Tensor]]:
    """Maps of strides 8, 16, ...; places around each token's own (encoder) or anywhere."""
    levels, queries = CASES[options.case]
    height, width = options.size
    shapes = [(-(-height // (8 << i)), -(-width // (8 << i))) for i in range(levels)]
    tokens = sum(h * w for h, w in shapes)
    generator = torch.Generator().manual_seed(0)
    if queries is None:
        centres = [torch.cartesian_prod(torch.arange(h) + 0.5, torch.arange(w) + 0.5).flip(-1)
                   / torch.tensor([w, h]) for h, w in shapes]  # fmt: skip
        reference = torch.cat(centres)
    else:
        reference = torch.rand(queries, 2, generator=generator)
    size = (options.batch, len(reference), HEADS, levels, POINTS)
    offsets = 3 * torch.randn(*size, 2, generator=generator)
    pixels = torch.tensor([(w, h) for h, w in shapes])[:, None]
    locations = reference[None, :, None, None, None] + offsets / pixels
    weights = torch.rand(*size[:3], levels * POINTS, generator=generator).softmax(-1).view(size)
    value = torch.randn(options.batch, tokens, HEADS, WIDTH, generator=generator)
    value = value.to(DTYPES[options.dtype])
    return shapes, [x.to(options.device) for x in (value, locations, weights)]


def measure(options: argparse.Namespace, name: str) -> list[dict[str, float]]:
    """Median seconds and peak bytes in this process: forward, then with the backward pass."""
    if options.device == "cpu":
        torch.set_num_threads(1)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    shapes, leaves = inputs(options)
    grad = torch.ones(*leaves[1].shape[:2], HEADS * WIDTH, device=options.device)
    before = peak(options.device)
    found = []
    for backward in (False, True):
        for leaf in leaves:
            leaf.requires_grad_(backward)
        seconds = []
        for _ in range(options.repeat + 1):
            start = clock()
            step(name, shapes, leaves, grad if backward else None)
            seconds.append(clock() - start)
        # the first time kernels are compiled and libraries load their buffers
        used = peak(options.device) - before
        found.append({"seconds": statistics.median(seconds[1:]), "bytes": used})
    return found


def step(
    name: str, shapes: list[tuple[int, int]], leaves: list[Tensor], grad: Tensor | None
) -> None:
    """One pass; with a gradient of the result both."""
    value, locations, weights = leaves
    if name == "stacked":
        out = stacked(value, shapes, locations, weights)
    else:
        with use_implementation(name):
            out = deformable_attention(value, shapes, locations, weights)
    if grad is not None:
        torch.autograd.grad(out, leaves, grad.to(out.dtype))
    if out.is_cuda:
        torch.cuda.synchronize()


def peak(device: str) -> int:
    """The largest memory so far, in bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES), help="of the values")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1066], help="height and width")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", choices=list(CASES), help="one of the cases instead of all")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.quick:
        options.size, options.repeat = [400, 534], 3
    return options


def in_a_process(options: argparse.Namespace, case: str, name: str) -> list[dict[str, float]]:
    """`measure` alone in a fresh process: a peak never sinks again."""
    command = [sys.executable, __file__, "--case", case, "--only", name]
    command += ["--size", *map(str, options.size)]
    for key in ("device", "dtype", "batch", "repeat"):
        command += [f"--{key}", str(getattr(options, key))]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(run.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, a row for each case and implementation."""
    options = parse(argv)
    if options.only:
        print(json.dumps(measure(options, options.only)))
        return 0
    names = ["stacked", "reference", "bags" if options.device == "cpu" else "triton"]
    height, width = options.size
    print(f"{options.device}, {options.dtype}, batch {options.batch}, {height} x {width} pixels")
    head = f"{'forward ms':>11} {'MB':>6} {'+ backward ms':>14} {'MB':>6}"
    print(f"{'':<22}{'':<11}{head}")
    for case in [options.case] if options.case else CASES:
        for name in names:
            one, both = in_a_process(options, case, name)
            print(
                f"{case:<22}{name:<11}{one['seconds'] * 1e3:11.1f} {one['bytes'] / 1e6:6.0f} "
                f"{both['seconds'] * 1e3:14.1f} {both['bytes'] / 1e6:6.0f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
