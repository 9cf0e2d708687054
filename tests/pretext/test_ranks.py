"""A mean over chosen rows is the same however the rows lie on the ranks."""

import pytest
import torch

from d2_unsupdet.pretext.ranks import gather, mean_over, own_rows, shared_draw, shared_permutation
from tests.ranks import run_ranks

VALUES = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
CHOSEN = torch.tensor([True, True, False, False, False, True])


def test_mean_over_is_the_mean_of_the_chosen():
    assert mean_over(VALUES, CHOSEN).item() == pytest.approx(35 / 3)
    values = VALUES.clone().requires_grad_()
    mean_over(values, CHOSEN).backward()
    assert values.grad.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0, 0, 1 / 3])


def test_nothing_chosen_is_zero_even_if_a_value_is_not_finite():
    values = torch.tensor([float("nan"), float("inf")], requires_grad=True)
    mean = mean_over(values, torch.zeros(2, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0 and values.grad.tolist() == [0, 0]


def on_two_ranks(rank: int) -> dict[str, torch.Tensor]:
    rows = slice(3 * rank, 3 * rank + 3)
    torch.manual_seed(5 + rank)  # only rank 0's generator counts
    return {
        "share": mean_over(VALUES[rows], CHOSEN[rows]),
        "lonely": mean_over(VALUES[rows], CHOSEN[rows] & (rank == 1)),
        "draw": shared_draw(3, 4, torch.device("cpu")),
        "order": shared_permutation(6, torch.device("cpu")),
        "own": own_rows(gather(VALUES[rows])),
    }


def test_two_ranks():
    first, second = run_ranks(on_two_ranks)
    # DistributedDataParallel averages the ranks' gradients, so the ranks' mean is what counts.
    assert float(first["share"] + second["share"]) / 2 == pytest.approx(35 / 3)
    assert float(first["lonely"] + second["lonely"]) / 2 == pytest.approx(32)
    torch.manual_seed(5)
    assert torch.equal(first["draw"], torch.rand(6, 4))  # what one process would have drawn
    for name in ("draw", "order"):
        assert torch.equal(first[name], second[name])
    assert torch.equal(torch.cat([first["own"], second["own"]]), VALUES)
