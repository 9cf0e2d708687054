"""Deformable attention: every implementation against loops, the official numbers and each other."""

import json
import logging
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from d2_unsupdet.detectors import deformable_attention as module
from d2_unsupdet.detectors.deformable_attention import (
    DeformableAttention,
    deformable_attention,
    use_implementation,
)
from d2_unsupdet.errors import UserError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
EXACT = ["reference", "bags"]


def loops(value, shapes, locations, weights):
    """The definition, a number at a time."""
    batch, _, heads, width = value.shape
    _, queries, _, levels, points, _ = locations.shape
    result = torch.zeros(batch, queries, heads, width, dtype=value.dtype)
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(levels)]
    for b, q, m, level, p in np.ndindex(batch, queries, heads, levels, points):
        h, w = shapes[level]
        u = float(locations[b, q, m, level, p, 0]) * w - 0.5
        v = float(locations[b, q, m, level, p, 1]) * h - 0.5
        for y in (math.floor(v), math.floor(v) + 1):
            for x in (math.floor(u), math.floor(u) + 1):
                if 0 <= y < h and 0 <= x < w:
                    share = (1 - abs(u - x)) * (1 - abs(v - y)) * weights[b, q, m, level, p]
                    result[b, q, m] += share * value[b, starts[level] + y * w + x, m]
    return result.flatten(2)


def case(shapes, *, batch=2, queries=5, heads=3, points=2, width=4, dtype=torch.float64, seed=0):
    """Locations from -0.4 to 1.4: a good part of the samples is on a border or outside."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(batch, tokens, heads, width, generator=generator, dtype=dtype)
    size = (batch, queries, heads, len(shapes), points)
    locations = torch.rand(*size, 2, generator=generator, dtype=dtype) * 1.8 - 0.4
    weights = torch.rand(size, generator=generator, dtype=dtype)
    return value, shapes, locations, weights


def gradients(name, value, shapes, locations, weights, grad):
    inputs = [x.detach().clone().requires_grad_() for x in (value, locations, weights)]
    with use_implementation(name):
        out = deformable_attention(inputs[0], shapes, *inputs[1:])
    return [out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("shapes", [[(3, 4)], [(1, 1)], [(5, 2), (1, 3), (2, 2)]])
def test_equals_loops_over_every_sample(name, shapes):
    inputs = case(shapes)
    with use_implementation(name):
        torch.testing.assert_close(deformable_attention(*inputs), loops(*inputs))


@pytest.mark.parametrize("name", EXACT)
def test_samples_in_pixels(name):
    """Centres read their pixel, the border half of it, a pixel beyond the last centre nothing."""
    value = torch.arange(1.0, 7).view(1, 6, 1, 1)  # 1 2 3 / 4 5 6
    places = [(0.5, 0.5), (2.5, 1.5), (1.0, 0.5), (1.0, 1.0), (0, 0.5), (-0.5, 0.5), (3.5, 2.5)]
    places += [(-7, 0.5), (1e6, 1e6), (2.5, 2.0)]
    locations = torch.tensor(places).view(1, -1, 1, 1, 1, 2) / torch.tensor([3, 2])
    weights = torch.ones(locations.shape[:-1])
    with use_implementation(name):
        found = deformable_attention(value, [(2, 3)], locations, weights)
    wanted = [1, 6, 1.5, 3, 0.5, 0, 0, 0, 0, 3]
    torch.testing.assert_close(found.flatten(), torch.tensor(wanted, dtype=torch.float32))


@pytest.mark.parametrize("name", EXACT)
def test_gradients_are_the_differences(name):
    value, shapes, locations, weights = case([(3, 4), (2, 2)], batch=1, queries=3, heads=2)
    inputs = [x.requires_grad_() for x in (value, locations, weights)]

    def attend(value, locations, weights):
        return deformable_attention(value, shapes, locations, weights)

    with use_implementation(name):
        assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("letter", "abd")
def test_official_numbers(name, letter):
    """Output and gradients of the official PyTorch formulation, fp32."""
    stored = np.load(GOLDEN / "op_msda.npz")
    prefix = f"core.{letter}."
    a = {k[len(prefix) :]: torch.from_numpy(stored[k]) for k in stored if k.startswith(prefix)}
    shapes = [(h, w) for h, w in a["spatial_shapes"].tolist()]
    inputs = a["value"], shapes, a["sampling_locations"], a["attention_weights"]
    found = gradients(name, *inputs, a["grad_out"])
    for got, key in zip(
        found, ("", "value", "sampling_locations", "attention_weights"), strict=True
    ):
        wanted = a[f"grad_{key}" if key else "out"]
        torch.testing.assert_close(got, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-5)


def stored_weight(key, like):
    """Weights of the stored numbers follow from the name of the parameter."""
    numbers = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(like.shape))
    scale = 0.1 if like.dim() == 1 else like[0].numel() ** -0.5
    return torch.from_numpy((numbers * scale).astype(np.float32))


@pytest.mark.parametrize("kind", ["module_ref2", "module_ref4"])
def test_official_module(kind):
    stored = np.load(GOLDEN / "op_msda.npz")
    a = {k: torch.from_numpy(stored[k]) for k in stored if k.startswith("module")}
    shapes = [(9, 12), (5, 6), (3, 3)]
    attention = DeformableAttention(dim=64, heads=4, levels=3, points=4)
    attention.load_state_dict({k: stored_weight(k, v) for k, v in attention.state_dict().items()})
    query, memory, reference = (
        a[f"{kind}.{key}"].requires_grad_() for key in ("query", "input", "reference")
    )
    mask = a[f"{kind}.padding_mask"]
    out = attention(query, reference, memory, shapes, mask)
    torch.testing.assert_close(out, a[f"{kind}.out"], atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(out, (query, memory, reference), a[f"{kind}.grad_out"])
    for got, key in zip(found, ("query", "input", "reference"), strict=True):
        wanted = a[f"{kind}.grad_{key}"]
        torch.testing.assert_close(got, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=1e-4)


def test_bags_equal_the_reference_on_many_samples():
    """Many queries in a cell, cells without any, tokens in a strided buffer, some frozen inputs."""
    inputs = case([(17, 23), (9, 12), (5, 6)], queries=400, heads=8, width=16, dtype=torch.float32)
    inputs = inputs[0].transpose(1, 2).contiguous().transpose(1, 2), *inputs[1:]
    grad = torch.randn(2, 400, 128)
    both = zip(gradients("bags", *inputs, grad), gradients("reference", *inputs, grad), strict=True)
    for got, wanted in both:
        torch.testing.assert_close(got, wanted, atol=3e-5 * float(wanted.abs().max()), rtol=1e-4)
    weights = inputs[3].requires_grad_()
    deformable_attention(*inputs).sum().backward()
    assert weights.grad is not None and inputs[0].grad is None


def test_bags_are_the_same_bits_each_time():
    inputs = case([(9, 9), (4, 4)], queries=200, dtype=torch.float32)
    grad = torch.randn(2, 200, 12)
    first, second = gradients("bags", *inputs, grad), gradients("bags", *inputs, grad)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_values_keep_exact_positions(name, dtype):
    """A map of 500 pixels: in bf16 a location would be off by up to a pixel."""
    value, shapes, locations, weights = case([(1, 500)], dtype=torch.float32)
    value = value.to(dtype)
    with use_implementation(name):
        half = deformable_attention(value, shapes, locations, weights)
        full = deformable_attention(value.float(), shapes, locations, weights)
    assert half.dtype == dtype
    torch.testing.assert_close(half, full.to(dtype))


@pytest.mark.parametrize("name", EXACT)
def test_not_a_number_stays_one_and_harms_no_other_query(name):
    value, shapes, locations, weights = case([(3, 4)])
    locations[0, 1, 0, 0, 0] = math.nan
    with use_implementation(name):
        found = deformable_attention(value, shapes, locations, weights).view(2, 5, 3, 4)
    if name == "bags":  # grid_sample takes it for a place outside
        assert found[0, 1, 0].isnan().all()
    found[0, 1, 0] = 0
    assert found.isfinite().all()


@pytest.mark.parametrize(("name", "breaks"), [("reference", 0), ("bags", 1)])
def test_compiled(name, breaks):
    """The reference compiles as one graph, the bags stay outside of it."""
    torch._dynamo.reset()
    attention = DeformableAttention(dim=16, heads=2, levels=2, points=2)
    memory = torch.randn(1, 16, 16, requires_grad=True)
    inputs = torch.randn(1, 6, 16), torch.rand(1, 6, 2, 2), memory, [(3, 4), (2, 2)]
    with use_implementation(name):
        assert torch._dynamo.explain(attention)(*inputs).graph_break_count == breaks
        plain, compiled = attention(*inputs), torch.compile(attention, backend="eager")(*inputs)
    torch.testing.assert_close(compiled, plain)
    grads = [torch.autograd.grad(out.square().sum(), memory)[0] for out in (plain, compiled)]
    torch.testing.assert_close(*grads)


def test_no_queries():
    inputs = case([(3, 4)], queries=0)
    grad = torch.zeros(2, 0, 12, dtype=torch.float64)
    out, value_grad, *_ = gradients("bags", *inputs, grad)
    assert out.shape == (2, 0, 12) and not value_grad.any()


def test_points_begin_on_rays():
    attention = DeformableAttention(dim=32, heads=8, levels=2, points=3)
    bias = attention.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    rays = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for level, point in np.ndindex(2, 3):
        wanted = torch.tensor(rays) * float(point + 1)
        torch.testing.assert_close(bias[:, level, point], wanted)
    query, reference = torch.randn(1, 4, 32), torch.rand(1, 4, 2, 2)
    _, weights = attention.points_of(query, reference, [(4, 4), (2, 2)])
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 6))


def test_parameter_counts():
    counts = {1: 156_256, 4: 230_272, 5: 254_944}
    for levels, wanted in counts.items():
        attention = DeformableAttention(dim=256, heads=8, levels=levels, points=4)
        assert sum(p.numel() for p in attention.parameters()) == wanted


def test_padding_is_not_read():
    attention = DeformableAttention(dim=16, heads=2, levels=1, points=4)
    torch.nn.init.normal_(attention.sampling_offsets.weight)
    query, reference = torch.randn(1, 6, 16), torch.rand(1, 6, 1, 2)
    memory, mask = torch.randn(1, 12, 16), torch.zeros(1, 12, dtype=torch.bool)
    mask[:, 5:] = True
    first = attention(query, reference, memory, [(3, 4)], mask)
    memory[:, 5:] = 1e4
    torch.testing.assert_close(attention(query, reference, memory, [(3, 4)], mask), first)


def test_autocast_computes_positions_in_full():
    attention = DeformableAttention(dim=16, heads=2, levels=1, points=2)
    with torch.autocast("cpu", torch.bfloat16):
        query, reference = torch.randn(1, 6, 16), torch.rand(1, 6, 1, 4)
        locations, weights = attention.points_of(query, reference, [(3, 4)])
        out = attention(query, reference, torch.randn(1, 12, 16), [(3, 4)])
    assert locations.dtype == weights.dtype == torch.float32 and out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attention.parameters())


def test_the_choice_by_device_variable_and_block(monkeypatch, caplog):
    monkeypatch.delenv(module.VARIABLE, raising=False)
    module._log_once.cache_clear()
    value = torch.zeros(1)
    with caplog.at_level(logging.INFO, logger=module.__name__):
        assert [module.implementation(value) for _ in range(3)] == ["bags"] * 3
    assert len(caplog.records) == 1 and "bags" in caplog.text
    monkeypatch.setenv(module.VARIABLE, "reference")
    assert module.implementation(value) == "reference"
    with use_implementation("bags"):
        assert module.implementation(value) == "bags"
        with use_implementation("auto"):
            assert module.implementation(value) == "bags"
    assert module.implementation(value) == "reference"
    monkeypatch.setattr(module, "is_installed", lambda name: name == "triton")
    assert module._automatic("cuda", torch.bfloat16) == "triton"
    assert module._automatic("cuda", torch.float64) == "reference"
    monkeypatch.setattr(module, "is_installed", lambda name: False)
    assert module._automatic("cuda", torch.float32) == "reference"


def test_wrong_input_is_said(monkeypatch):
    monkeypatch.setenv(module.VARIABLE, "cuda")
    value, shapes, locations, weights = case([(3, 4)])
    with pytest.raises(UserError, match=r"'cuda', which does not exist.*reference, bags, triton"):
        deformable_attention(value, shapes, locations, weights)
    monkeypatch.setenv(module.VARIABLE, "auto")
    with pytest.raises(UserError, match="12 tokens"):
        deformable_attention(value, [(3, 5)], locations, weights)
    with pytest.raises(UserError, match="dim=30"):
        DeformableAttention(dim=30, heads=8)
    attention = DeformableAttention(dim=16, heads=2, levels=2, points=2)
    with pytest.raises(UserError, match="2 levels"):
        attention.points_of(torch.zeros(1, 3, 16), torch.zeros(1, 3, 1, 2), [(3, 4), (1, 1)])


def test_the_committed_numbers_name_their_origin():
    manifest = json.loads((GOLDEN / "op_msda.json").read_text())
    assert "Deformable-DETR" in manifest["official_repo"] and manifest["licence"] == "Apache-2.0"
