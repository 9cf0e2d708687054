"""Shuffle-BN: a permutation shared by the ranks, exactly undone; the identity in one process."""

import torch
from torch import nn

from d2_unsupdet.pretext.ranks import gather, own_rows, shared_permutation
from d2_unsupdet.pretext.shuffle import Shuffle
from tests.ranks import run_ranks

ROWS = 4


def images() -> torch.Tensor:
    return torch.arange(2 * ROWS, dtype=torch.float32)[:, None]


def on_a_rank(rank: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(rank)  # ranks draw differently; rank 0 decides
    mine = own_rows(images())
    shuffle = Shuffle(rows=ROWS, device=mine.device)
    shuffled = shuffle.scatter(mine)
    bn = nn.BatchNorm1d(1, momentum=1.0)
    bn(shuffled)
    plain = Shuffle(rows=ROWS, device=mine.device, enabled=False)
    return {
        "mine": mine,
        "order": shuffle.order,
        "shuffled": shuffled,
        "mean": bn.running_mean,
        "restored": shuffle.restore(shuffled * 10),
        "plain": plain.scatter(mine),
        "gathered": plain.restore(mine),
        "bytes": gather(mine.to(torch.uint8)),
        "next": torch.rand(1),
    }


def test_two_ranks():
    ranks = run_ranks(on_a_rank)
    assert torch.equal(ranks[0]["order"], ranks[1]["order"])
    assert sorted(ranks[0]["order"].tolist()) == list(range(2 * ROWS))
    both = torch.cat([r["shuffled"] for r in ranks])
    assert torch.equal(both, images()[ranks[0]["order"]])
    for rank, result in enumerate(ranks):
        assert torch.equal(result["mine"], images()[rank * ROWS :][:ROWS])
        assert torch.equal(result["mean"], result["shuffled"].mean(0))  # BN saw the mixed slice
        assert not torch.equal(result["mean"], result["mine"].mean(0))
        assert torch.equal(result["restored"], images() * 10)
        assert torch.equal(result["plain"], result["mine"])
        assert torch.equal(result["gathered"], images())
        assert result["bytes"].flatten().tolist() == list(range(2 * ROWS))
        torch.manual_seed(rank)
        torch.randperm(2 * ROWS)
        assert torch.equal(result["next"], torch.rand(1))  # every rank drew exactly one permutation


def test_one_process_is_the_identity_and_draws_nothing():
    state = torch.get_rng_state()
    shuffle = Shuffle(rows=ROWS, device=torch.device("cpu"))
    x = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0))
    assert shuffle.restore(shuffle.scatter(x)) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_permutation_follows_the_generator():
    torch.manual_seed(3)
    first = shared_permutation(6, torch.device("cpu"))
    torch.manual_seed(3)
    assert torch.equal(first, shared_permutation(6, torch.device("cpu")))
