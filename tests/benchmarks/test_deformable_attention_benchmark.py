"""The benchmark of deformable attention compares things that are equal."""

from pathlib import Path

import pytest
import torch

from d2_unsupdet.detectors.deformable_attention import deformable_attention
from tests.scripts import load_script

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "deformable_attention.py"


@pytest.fixture(scope="module")
def benchmark():
    return load_script(PATH)


@pytest.mark.parametrize("case", ["encoder", "DETA decoder"])
def test_the_stacked_formulation_is_the_same_attention(benchmark, case):
    options = benchmark.parse(["--case", case, "--size", "64", "90", "--batch", "2"])
    shapes, tensors = benchmark.inputs(options)
    assert shapes[:2] == [(8, 12), (4, 6)]
    found = benchmark.stacked(tensors[0], shapes, *tensors[1:])
    torch.testing.assert_close(found, deformable_attention(tensors[0], shapes, *tensors[1:]))


def test_forward_and_backward_are_measured(benchmark, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    options = benchmark.parse(["--case", "encoder", "--size", "32", "32", "--repeat", "1"])
    forward, both = benchmark.measure(options, "reference")
    assert forward["seconds"] > 0 and 0 <= forward["bytes"] <= both["bytes"]
