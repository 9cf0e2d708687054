"""InfoNCE against loops over rows and keys, whole and in chunks."""

import math

import pytest
import torch
import torch.nn.functional as F

from d2_unsupdet.pretext.contrastive import InfoNCE


def brute_force(query, positive, bank, temperature):
    """One loss a row, written as the paper's formula with Python floats."""
    losses = []
    for q, k in zip(query.tolist(), positive.tolist(), strict=True):
        near = sum(a * b for a, b in zip(q, k, strict=True)) / temperature
        far = [sum(a * b for a, b in zip(q, n, strict=True)) / temperature for n in bank.tolist()]
        losses.append(-math.log(math.exp(near) / (math.exp(near) + sum(map(math.exp, far)))))
    return losses


@pytest.fixture
def problem():
    torch.manual_seed(1)
    query, positive, bank = (F.normalize(torch.randn(n, 8), dim=1) for n in (7, 7, 30))
    return query.requires_grad_(), positive, bank


@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
def test_equals_brute_force(problem, chunk):
    contrast = InfoNCE(temperature=0.2, chunk=chunk)(*problem)
    expected = torch.tensor(brute_force(*problem, 0.2))
    torch.testing.assert_close(contrast.loss.detach(), expected)


def test_statistics(problem):
    query, positive, bank = problem
    contrast = InfoNCE(temperature=0.2)(query, positive, bank)
    far = query @ bank.T
    near = (query * positive).sum(1)
    torch.testing.assert_close(contrast.negative, far.mean(1).detach())
    torch.testing.assert_close(contrast.positive, near.detach())
    assert contrast.correct.tolist() == [
        float(all(n > f for f in row)) for n, row in zip(near.tolist(), far.tolist(), strict=True)
    ]
    assert not any(x.requires_grad for x in (contrast.positive, contrast.negative))


def test_chunks_give_the_same_gradient(problem):
    query, positive, bank = problem
    gradients = [
        torch.autograd.grad(InfoNCE(temperature=0.2, chunk=c)(*problem).loss.mean(), query)[0]
        for c in (None, 2)
    ]
    torch.testing.assert_close(*gradients)


def test_gradient_stops_at_keys(problem):
    query, positive, bank = problem
    InfoNCE(temperature=0.2)(
        query, positive.requires_grad_(), bank.requires_grad_()
    ).loss.sum().backward()
    assert query.grad is not None and positive.grad is None and bank.grad is None


def test_bf16_autocast_changes_nothing(problem):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = InfoNCE(temperature=0.2)(*problem)
    assert torch.equal(inside.loss, InfoNCE(temperature=0.2)(*problem).loss)
