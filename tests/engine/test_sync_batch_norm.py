"""SyncBN where torch has none: against plain BN on the concatenated batch of all ranks."""

import logging

import pytest
import torch
from torch import nn

from d2_unsupdet.engine.sync_batch_norm import (
    GlooSyncBatchNorm,
    LocalBatchNorm,
    resolve_sync_bn,
    use_sync_bn,
)
from tests.ranks import run_ranks

SHAPES = {
    "2d": [(3, 4, 5, 6), (3, 4, 5, 6)],
    "1d": [(6, 4), (6, 4)],
    "unequal": [(2, 4, 3, 3), (5, 4, 6, 2)],
    "empty": [(0, 4, 3, 3), (5, 4, 3, 3)],
}
CASES = [
    (shape, momentum, dtype)
    for shape, momentum in [("2d", 0.1), ("1d", 0.3), ("unequal", None), ("empty", 0.1)]
    for dtype in (torch.float32, torch.float64)
]


def inputs(shape: str, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [0.5 + torch.randn(s, generator=generator).to(dtype) for s in SHAPES[shape]]


def norm(kind: type[nn.Module], momentum: float | None, dtype: torch.dtype) -> nn.Module:
    layer = kind(4, momentum=momentum)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 0.7, -1.0]))
        layer.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
    return layer.to(dtype)


def weighted(y: torch.Tensor) -> torch.Tensor:
    """A loss with a different gradient in every element, so that nothing cancels."""
    return (y**2 * torch.linspace(-1, 1, y.numel() or 1)[: y.numel()].view_as(y)).sum()


def rank_results(rank: int) -> list[dict[str, torch.Tensor]]:
    return [_one_rank(rank, *case) for case in CASES]


def _one_rank(rank: int, shape: str, momentum: float | None, dtype: torch.dtype) -> dict:
    layer = resolve_sync_bn(nn.Sequential(norm(nn.SyncBatchNorm, momentum, dtype)))[0]
    assert isinstance(layer, GlooSyncBatchNorm)
    layer(inputs(shape, dtype)[1 - rank])  # the running statistics move twice
    x = inputs(shape, dtype)[rank].requires_grad_()
    y = layer(x)
    weighted(y).backward()
    state = {k: v for k, v in layer.state_dict().items() if k not in ("weight", "bias")}
    return {"y": y.detach(), "x": x.grad, "w": layer.weight.grad, "b": layer.bias.grad, **state}


@pytest.fixture(scope="module")
def both_ranks():
    first, second = run_ranks(rank_results)
    return dict(zip(CASES, zip(first, second, strict=True), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_cpu_ranks_equal_one_large_batch(case, both_ranks):
    shape, momentum, dtype = case
    reference = norm(LocalBatchNorm, momentum, dtype)
    leaves = [x.requires_grad_() for x in inputs(shape, dtype)]
    rows = [x.movedim(1, -1).reshape(-1, 4) for x in leaves]
    reference(torch.cat(rows[::-1]).detach())
    flat = reference(torch.cat(rows)).split([len(r) for r in rows])
    outs = [
        y.view(x.movedim(1, -1).shape).movedim(-1, 1).contiguous()
        for y, x in zip(flat, leaves, strict=True)
    ]
    sum(weighted(y) for y in outs).backward()
    tolerance = {"rtol": 1e-6, "atol": 1e-6 if dtype == torch.float32 else 1e-12}
    results = both_ranks[case]
    for result, y, x in zip(results, outs, leaves, strict=True):
        torch.testing.assert_close(result["y"], y.detach(), **tolerance)
        torch.testing.assert_close(result["x"], x.grad, **tolerance)
        torch.testing.assert_close(result["running_mean"], reference.running_mean, **tolerance)
        torch.testing.assert_close(result["running_var"], reference.running_var, **tolerance)
        assert result["num_batches_tracked"] == 2
    size = {"rtol": 1e-6, "atol": 30 * tolerance["atol"]}  # sums over up to 180 elements
    torch.testing.assert_close(results[0]["w"] + results[1]["w"], reference.weight.grad, **size)
    torch.testing.assert_close(results[0]["b"] + results[1]["b"], reference.bias.grad, **size)


def stepwise(rank: int) -> dict[str, torch.Tensor]:
    """bf16 keeps its type; evaluation and no_grad need no partner; a stack trains under DDP."""
    layer = GlooSyncBatchNorm(4)
    out = layer(inputs("2d")[rank].bfloat16())
    alone = {"train": out, "eval": torch.zeros(0)}
    if rank == 0:
        alone["eval"] = layer.eval()(inputs("2d")[0])
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.SyncBatchNorm(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
    for p in model.parameters():
        nn.init.constant_(p, 0.1)
    model = nn.parallel.DistributedDataParallel(resolve_sync_bn(model), broadcast_buffers=False)
    model(inputs("2d")[rank]).mean().backward()
    return {**alone, "gradient": model.module[0].weight.grad, "error": _too_small(rank)}


def _too_small(rank: int) -> str:
    try:
        GlooSyncBatchNorm(4)(torch.zeros(1 - rank, 4))
    except ValueError as error:
        return str(error)
    return ""


def test_dtype_evaluation_ddp_and_too_small_a_batch():
    first, second = run_ranks(stepwise)
    assert first["train"].dtype == torch.bfloat16
    assert first["eval"].shape == (3, 4, 5, 6)
    assert torch.equal(first["gradient"], second["gradient"])
    assert all("more than one value per channel" in x["error"] for x in (first, second))


def test_one_process_gets_plain_bn_with_shared_parameters_and_one_line(caplog):
    shared = nn.SyncBatchNorm(3)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": shared, "c": nn.SyncBatchNorm(2)})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weight = shared.weight
    with caplog.at_level(logging.INFO):
        resolved = resolve_sync_bn(model)
    assert len(caplog.records) == 1
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in resolved.modules())
    assert resolved["a"][0] is resolved["b"]
    assert resolved["b"].weight is weight
    assert before.keys() == resolved.state_dict().keys()
    resolved.load_state_dict(before)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 5)])
def test_plain_bn_takes_inputs_of_any_rank(shape):
    x = torch.randn(shape)
    bn = resolve_sync_bn(nn.SyncBatchNorm(3))
    y = bn(x).movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="batch, channels"):
        bn(x.flatten()[:3])


def test_use_sync_bn_converts_what_resolve_takes_back():
    model = use_sync_bn(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert isinstance(model[1], nn.SyncBatchNorm)
    assert isinstance(resolve_sync_bn(model)[1], nn.BatchNorm2d)
