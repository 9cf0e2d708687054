#!/usr/bin/env python
"""Peak memory and time of DUPR's patch contrast: all logits at once against chunks, recomputed.

python benchmarks/patch_memory.py                # res4 at batch 32: 6,272 rows, 65,536 keys
python benchmarks/patch_memory.py --device cuda --dtype bf16
python benchmarks/patch_memory.py --quick          # a smaller case, half a minute

On a CPU the peak is the largest resident size of a process of its own, less what it had before the
contrast; on CUDA it is the allocator's.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from d2_unsupdet.pretext.contrastive import InfoNCE


def measure(rows: int, keys: int, chunk: int | None, device: str, dtype: str) -> dict[str, float]:
    """Peak bytes, seconds, loss and gradient norm of one forward and backward in this process."""
    torch.manual_seed(0)
    half = torch.bfloat16 if dtype == "bf16" else torch.float32
    query, positive, bank = (
        F.normalize(torch.randn(n, 128, device=device), dim=1) for n in (rows, rows, keys)
    )
    query = query.to(half).requires_grad_()
    contrast = InfoNCE(temperature=0.2, chunk=chunk)
    contrast(query[:8], positive[:8], bank).loss.mean().backward()  # libraries load their buffers
    query.grad = None
    before = peak(device)
    start = time.perf_counter()
    loss = contrast(query, positive, bank).loss.mean()
    loss.backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    assert query.grad is not None
    norm = float(query.grad.float().norm())
    used = peak(device) - before
    return {"bytes": used, "seconds": seconds, "loss": float(loss), "gradient": norm}


def peak(device: str) -> int:
    """The largest memory so far, in bytes; on CUDA since the last call."""
    if device == "cuda":
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_a_process(options: argparse.Namespace, chunk: int | None) -> dict[str, float]:
    """`measure` alone in a fresh process: a peak never sinks again."""
    command = [sys.executable, __file__, "--rows", str(options.rows), "--keys", str(options.keys)]
    command += ["--device", options.device, "--dtype", options.dtype, "--only", str(chunk or 0)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=32 * 14 * 14, help="patches of a batch")
    parser.add_argument("--keys", type=int, default=65536, help="size of the bank")
    parser.add_argument("--chunks", type=int, nargs="+", default=[512, 128])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"], help="of the queries")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.quick:
        options.rows, options.keys, options.chunks = 6272, 16384, [512]
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a result differs or no chunk stays under a quarter of the peak."""
    options = parse(argv)
    if options.only is not None:
        case = options.rows, options.keys, options.only or None, options.device, options.dtype
        print(json.dumps(measure(*case)))
        return 0
    logits = options.rows * (options.keys + 1) * 4
    print(f"{options.rows} rows x {options.keys + 1} logits: {logits / 1e9:.2f} GB in fp32")
    print(f"{'':>14} {'peak MB':>9} {'share':>6} {'seconds':>8} {'loss':>10} {'gradient':>11}")
    naive = in_a_process(options, None)
    shares = []
    for chunk in (None, *options.chunks):
        found = in_a_process(options, chunk) if chunk else naive
        share = found["bytes"] / naive["bytes"]
        print(
            f"{f'chunks of {chunk}' if chunk else 'all at once':>14} {found['bytes'] / 1e6:9.0f} "
            f"{share:6.2f} {found['seconds']:8.2f} {found['loss']:10.6f} {found['gradient']:11.4e}"
        )
        for name in ("loss", "gradient"):
            if abs(found[name] - naive[name]) > 1e-5 * abs(naive[name]):
                print(f"{name} differs from the one with all logits at once")
                return 1
        shares.append(share)
    return int(min(shares) >= 0.25)


if __name__ == "__main__":
    sys.exit(main())
