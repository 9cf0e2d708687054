"""Both directions count alike, waiting parts get zeros, the mode comes back, errors name a key."""

import numpy as np
import pytest
import torch
from torch import nn

from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.siamese import (
    check_counts,
    check_regions,
    eval_mode,
    symmetric,
    waiting,
)


def test_symmetric_is_the_mean_of_both_directions():
    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a - 3 * b

    assert symmetric(loss, torch.tensor(4.0), torch.tensor(2.0)).item() == (-2 - 10) / 2


def test_waiting_parts_get_gradients_of_zero():
    parts = [nn.Linear(2, 3), nn.BatchNorm1d(3)]
    loss = waiting(parts)
    loss.backward()
    assert loss.item() == 0
    for part in parts:
        assert all(p.grad is not None and not p.grad.any() for p in part.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_eval_mode_gives_the_mode_back_even_after_an_error(training):
    model = nn.Sequential(nn.Dropout()).train(training)
    with pytest.raises(RuntimeError, match="broken"), eval_mode(model):
        assert not model[0].training and not torch.is_grad_enabled()
        raise RuntimeError("broken")
    assert model.training is model[0].training is training and torch.is_grad_enabled()


def test_bad_settings_are_sentences():
    check_counts(a=1, b=np.int64(3))
    check_regions(0, 0.1)
    check_regions(1, 1)
    for value in (0, -1, 2.5, "auto", None):
        with pytest.raises(UserError, match="b is .*; it must be a whole number of at least 1"):
            check_counts(a=1, b=value)
    with pytest.raises(UserError, match="a is 1; it must be a whole number of at least 2"):
        check_counts(2, a=1)
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="region_start is .* in \\[0, 1\\]"):
            check_regions(value, 0.1)
    for value in (0, -0.1, float("nan")):
        with pytest.raises(UserError, match="region_temperature is .* above 0"):
            check_regions(0.8, value)
