"""The EMA moves parameters by the formula, and nothing else."""

import torch
from torch import nn

from d2_unsupdet.pretext.momentum import momentum_copy, momentum_update


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_formula_and_buffers():
    source = network()
    target = momentum_copy(source)
    start = [p.clone() for p in target.parameters()]
    with torch.no_grad():
        for p in source.parameters():
            p.add_(torch.randn_like(p))
    source(torch.randn(8, 3))  # moves the running statistics of the source only
    momentum_update(target, source, 0.9)
    for t, s, old in zip(target.parameters(), source.parameters(), start, strict=True):
        torch.testing.assert_close(t, 0.9 * old + 0.1 * s)
    assert target[1].running_mean.tolist() == [0.0] * 4


def test_equal_weights_stay_equal_bit_for_bit():
    source = network()
    target = momentum_copy(source)
    momentum_update(target, source, 0.999)
    assert all(map(torch.equal, target.parameters(), source.parameters()))


def test_the_copy_is_out_of_reach_of_gradients():
    target = momentum_copy(network())
    assert not any(p.requires_grad for p in target.parameters())
    assert target.training
