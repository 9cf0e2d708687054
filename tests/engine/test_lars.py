"""LARS against the formula written out in NumPy."""

import copy

import numpy as np
import pytest
import torch

from d2_unsupdet.engine.lars import LARS


def naive(weights, gradients, *, lr, momentum, decay, trust):
    """A matrix and a vector through all steps, in float64."""
    matrix, vector = (w.astype(np.float64) for w in weights)
    v_matrix, v_vector = np.zeros_like(matrix), np.zeros_like(vector)
    for g_matrix, g_vector in gradients:
        g = g_matrix + decay * matrix
        g = g * (trust * np.linalg.norm(matrix) / np.linalg.norm(g))
        v_matrix = momentum * v_matrix + g
        v_vector = momentum * v_vector + g_vector
        matrix, vector = matrix - lr * v_matrix, vector - lr * v_vector
    return matrix, vector


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 3)), rng.normal(size=5)
    gradients = [(rng.normal(size=(4, 3)), rng.normal(size=5)) for _ in range(6)]
    return weights, gradients


def run(optimizer, params, gradients):
    for step in gradients:
        for p, g in zip(params, step, strict=True):
            p.grad = torch.from_numpy(g)
        optimizer.step()


def as_parameters(weights):
    return [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in weights]


def test_equals_the_formula(problem):
    weights, gradients = problem
    params = as_parameters(weights)
    optimizer = LARS(params, lr=0.7, momentum=0.9, weight_decay=0.01, trust_coefficient=0.02)
    run(optimizer, params, gradients)
    expected = naive(weights, gradients, lr=0.7, momentum=0.9, decay=0.01, trust=0.02)
    for p, e in zip(params, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), e, rtol=1e-12)


def test_a_zero_tensor_takes_the_plain_step():
    p = torch.nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.ones(2, 2)
    LARS([p], lr=0.5).step()
    assert torch.equal(p.detach(), torch.full((2, 2), -0.5))


def test_state_dict_round_trip_continues_bit_for_bit(problem):
    weights, gradients = problem
    params = as_parameters(weights)
    optimizer = LARS(params, lr=0.7, weight_decay=0.01)
    run(optimizer, params, gradients[:3])
    resumed = as_parameters([p.detach().numpy() for p in params])
    second = LARS(resumed, lr=0.1)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, params, gradients[3:])
    run(second, resumed, gradients[3:])
    for a, b in zip(params, resumed, strict=True):
        assert torch.equal(a, b)


def test_a_negative_learning_rate_is_refused():
    with pytest.raises(ValueError, match="lr=-1"):
        LARS([torch.nn.Parameter(torch.zeros(1))], lr=-1)
