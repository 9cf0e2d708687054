"""The Triton kernels against the plain reference: on a GPU where there is one, else interpreted.

Triton decides when it is imported whether to interpret, so the tests of a machine without a GPU run
in a process of their own, started by the first test. The interpreter takes Python that the compiler
refuses, so the kernels are compiled for GPUs as well, which needs none.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from d2_unsupdet.detectors.deformable_attention import deformable_attention, use_implementation

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
kernel = pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="needs a GPU or TRITON_INTERPRET=1"
)

LEVELS = [(5, 7), (3, 4), (2, 2), (1, 3)]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


@pytest.mark.skipif(DEVICE == "cuda" or INTERPRETED, reason="the tests below run in this process")
def test_kernels_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0 and "12 passed" in run.stdout, (
        run.stdout[-4000:] + run.stderr[-2000:]
    )


@pytest.mark.skipif(not INTERPRETED, reason="needs a process in which nothing has run yet")
def test_the_kernel_is_imported_only_when_it_runs():
    assert "d2_unsupdet.detectors.deformable_attention_triton" not in sys.modules


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("capability", [75, 90])
def test_kernels_compile_for_a_gpu(kind, capability, monkeypatch, tmp_path):
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends")
    if "nvidia" not in backends.backends:
        pytest.skip("this Triton cannot compile for CUDA")
    from triton.backends.compiler import GPUTarget

    from d2_unsupdet.detectors import deformable_attention_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = dict(HEADS=8, WIDTH=32, LEVELS=4, POINTS=4, BLOCK=16, BLOCK_WIDTH=32)
    half = dict.fromkeys(("value", "result", "grad"), f"*{kind}")
    integers = dict(table="*i32", tokens="i32", queries="i32")
    types = {**half, **integers, **dict.fromkeys(sizes, "constexpr")}
    for function in (kernels._forward, kernels._backward):
        signature = {name: types.get(name, "*fp32") for name in function.arg_names}
        source = compiler.ASTSource(fn=function, signature=signature, constexprs=sizes)
        assert compiler.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


def case(dtype, *, batch=2, queries=5, heads=3, levels=2, points=2, width=8):
    generator = torch.Generator().manual_seed(0)
    shapes = LEVELS[:levels]
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(batch, tokens, heads, width, generator=generator).to(DEVICE, dtype)
    size = (batch, queries, heads, levels, points)
    locations = torch.rand(*size, 2, generator=generator) * 1.8 - 0.4  # many of them outside
    weights = torch.rand(size, generator=generator)
    return value, shapes, locations.to(DEVICE), weights.to(DEVICE)


def run(name, value, shapes, locations, weights, grad):
    inputs = [x.detach().clone().requires_grad_() for x in (value, locations, weights)]
    with use_implementation(name):
        out = deformable_attention(inputs[0], shapes, *inputs[1:])
    return [out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


def compare(inputs, dtype):
    grad = torch.randn(*inputs[2].shape[:2], inputs[0].shape[2] * inputs[0].shape[3], device=DEVICE)
    found = run("triton", *inputs, grad)
    assert found[0].dtype == found[1].dtype == dtype and found[2].dtype == torch.float32
    for got, wanted in zip(found, run("reference", *inputs, grad), strict=True):
        atol = TOLERANCE[dtype] * max(1, float(wanted.abs().max()))
        torch.testing.assert_close(got, wanted, atol=atol, rtol=TOLERANCE[dtype])


@kernel
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_types(dtype):
    """Positions and weights are fp32 for each type of the value."""
    compare(case(dtype), dtype)


@kernel
@pytest.mark.parametrize(
    "sizes",
    [
        dict(width=1, queries=1, batch=1, heads=1, levels=1, points=1),
        dict(width=5, queries=7, heads=2, points=3),
        dict(width=32, queries=70, heads=1, batch=1),  # more than one block of queries
        dict(width=36, batch=1, levels=4, points=4, queries=2, heads=1),
        dict(width=96, levels=1, queries=6),
    ],
    ids=str,
)
def test_sizes(sizes):
    compare(case(torch.float32, **sizes), torch.float32)


@kernel
def test_strided_inputs():
    value, shapes, locations, weights = case(torch.float32)
    value = value.transpose(1, 2).contiguous().transpose(1, 2)
    locations = locations.transpose(1, 2).contiguous().transpose(1, 2)
    compare((value, shapes, locations, weights), torch.float32)


@kernel
def test_far_away_and_not_a_number():
    value, shapes, locations, weights = case(torch.float32)
    locations[0, 0] = 1e30
    locations[0, 1] = -torch.inf
    locations[0, 2, 1, 0, 0] = torch.nan
    with use_implementation("triton"):
        found = deformable_attention(value, shapes, locations, weights).view(2, 5, 3, 8)
    assert not found[0, 0].any() and found[0, 2, 1].isnan().all()
    assert found[0, 3:].isfinite().all() and found[1].isfinite().all()


@kernel
def test_no_queries():
    inputs = case(torch.float32, queries=0)
    out, grad_value, *_ = run("triton", *inputs, torch.zeros(2, 0, 24, device=DEVICE))
    assert out.shape == (2, 0, 24) and not grad_value.any()
