"""Cosine and cross-entropy against loops, for single pairs and for weighted sums of pairs."""

import math

import pytest
import torch

from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.similarity import similarity


def cosine(p: list[float], z: list[float]) -> float:
    length = math.sqrt(sum(a * a for a in p)) * math.sqrt(sum(b * b for b in z))
    return sum(a * b for a, b in zip(p, z, strict=True)) / length


def cross_entropy(p: list[float], z: list[float]) -> float:
    """sum softmax(z) log softmax(p)"""
    p_sum, z_sum = sum(map(math.exp, p)), sum(map(math.exp, z))
    shares = [math.exp(b) / z_sum for b in z]
    return sum(s * math.log(math.exp(a) / p_sum) for a, s in zip(p, shares, strict=True))


NAIVE = {"cosine": cosine, "cross_entropy": cross_entropy}


@pytest.mark.parametrize("name", NAIVE)
def test_pairs_and_weighted_pairs_equal_loops(name):
    torch.manual_seed(0)
    p, z = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 4).double()
    weight = torch.rand(2, 3, 5).double()
    measure = similarity(name)
    single = measure(p, z[:, :3])
    total = measure.weighted(p, z, weight)
    for i in range(2):
        for n in range(3):
            pairs = [NAIVE[name](p[i, n].tolist(), z[i, m].tolist()) for m in range(5)]
            assert single[i, n].item() == pytest.approx(pairs[n])
            expected = sum(w * s for w, s in zip(weight[i, n].tolist(), pairs, strict=True))
            assert total[i, n].item() == pytest.approx(expected)


def test_known_values():
    p = torch.tensor([3.0, 4.0])
    assert similarity("cosine")(p, 2 * p).item() == pytest.approx(1)
    same = torch.zeros(8)
    assert similarity("cross_entropy")(same, same).item() == pytest.approx(-math.log(8))


@pytest.mark.parametrize("name", NAIVE)
def test_at_least_fp32_whatever_autocast_says(name):
    p = torch.randn(6, 16, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = similarity(name)(p, p.flip(0))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, similarity(name)(p.float(), p.flip(0).float()))


def test_unknown_name_is_a_sentence():
    with pytest.raises(UserError, match="named 'cosin'.*Did you mean 'cosine'"):
        similarity("cosin")
