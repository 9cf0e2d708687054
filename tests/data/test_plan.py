"""The plan: every image once an epoch, the same in every process, aspect groups kept together."""

import pickle

import numpy as np
import pytest

from d2_unsupdet.data.plan import WINDOW, BatchPlan


def indices(plan: BatchPlan, steps: range) -> list[int]:
    return [p.index for step in steps for p in plan[step]]


def test_an_epoch_visits_each_image_once_even_across_batches():
    plan = BatchPlan(seed=3, size=10, batch=4)
    stream = [p for step in range(5) for p in plan[step]]  # 20 samples, two epochs
    for epoch in (0, 1):
        assert sorted(p.index for p in stream if p.epoch == epoch) == list(range(10))


def test_epochs_differ_and_seeds_differ():
    plan, other = BatchPlan(seed=0, size=50, batch=50), BatchPlan(seed=1, size=50, batch=50)
    assert indices(plan, range(1)) != indices(plan, range(1, 2))
    assert indices(plan, range(1)) != indices(other, range(1))


@pytest.mark.parametrize("landscape", [None, [i % 3 > 0 for i in range(20)]])
def test_any_step_is_known_without_the_ones_before(landscape):
    plan = BatchPlan(seed=7, size=20, batch=6, landscape=landscape)
    in_order = [plan[step] for step in range(100)]
    fresh = pickle.loads(pickle.dumps(plan))
    for step in (99, 40, 0, 64):
        assert fresh[step] == in_order[step]


def test_ranks_share_the_global_batch():
    plan = BatchPlan(seed=0, size=100, batch=8)
    shares = [plan.share(5, rank=rank, world=4) for rank in range(4)]
    assert sum(shares, []) == plan[5]
    with pytest.raises(ValueError, match="batch of 8 cannot be shared by 3"):
        plan.share(5, rank=0, world=3)


def test_aspect_groups_mix_at_most_one_batch_a_window_and_lose_no_image():
    landscape = list(np.random.default_rng(0).random(640) < 0.3)
    grouped = BatchPlan(seed=0, size=640, batch=10, landscape=landscape)
    plain = BatchPlan(seed=0, size=640, batch=10)
    for window in range(3):
        steps = range(window * WINDOW, (window + 1) * WINDOW)
        kinds = [{bool(landscape[p.index]) for p in grouped[step]} for step in steps]
        assert sum(len(kind) == 2 for kind in kinds) <= 1
        assert sorted(indices(grouped, steps)) == sorted(indices(plain, steps))


def test_a_batch_larger_than_the_data_repeats_images():
    plan = BatchPlan(seed=0, size=3, batch=7)
    assert [p.epoch for p in plan[0]] == [0, 0, 0, 1, 1, 1, 2]
