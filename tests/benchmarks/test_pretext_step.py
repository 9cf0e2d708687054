"""benchmarks/pretext_step.py: what is compared, and what its table says of it."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench():
    return load_script("benchmarks/pretext_step.py")


def cost(seconds, memory, flops=1e12):
    return {"seconds": seconds, "memory": memory, "flops": flops}


@pytest.mark.parametrize(
    ("time", "memory", "verdict"),
    [(1.10, 1.1, "at or below"), (1.14, 1.1, "ABOVE"), (1.10, 1.21, "ABOVE")],
)
def test_a_gpu_is_held_to_the_supplement(bench, time, memory, verdict):
    found = {"up_detr": cost(2.0, 10.0), "detreg": cost(2.0 * time, 10.0 * memory, 1.5e12)}
    row = bench.table(found, "cuda").splitlines()[-1]
    assert verdict in row and f"| {time:.2f} |" in row and "| 1.50 |" in row
    assert "ABOVE" not in bench.table(found, "cpu")


def test_all_see_the_same_images_and_each_papers_number_of_boxes(bench):
    options = Namespace(batch=2, height=60, width=80, views=False)
    one, other = (bench.samples(method, options) for method in ("up_detr", "detreg"))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(one, other, strict=True))
    assert [len(a["crops"]) for a in (*one, *other)] == [10, 10, 30, 30]
    for sample in bench.samples("siamese_detr", options):
        assert sample["views"].shape[:2] == (2, 3) and sample["crops"].shape[:2] == (2, 10)
        assert max(sample["views"].shape[2:]) <= 80
    options.views = True
    assert [len(bench.samples(m, options)) for m in ("siamese_detr", "detreg")] == [1, 2]


def test_memory_is_in_gigabytes_and_only_grows(bench):
    block = bytearray(300_000_000)
    block[::4096] = b"x" * len(block[::4096])  # touched, or it is only promised
    peak = bench.peak_resident()
    assert 0.3 < peak < 100
    del block
    assert bench.peak_resident() > 0.99 * peak  # the kernel counts in batches
