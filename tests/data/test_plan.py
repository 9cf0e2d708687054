"""The plan: every image once an epoch, the same in every process, aspect groups kept together."""

import pickle

import numpy as np
import pytest

from d2_unsupdet.data.plan import WINDOW, BatchPlan
from d2_unsupdet.seeding import generator


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


def test_weights_set_how_often_an_image_is_drawn_and_keep_the_epochs_length():
    weights = [1, 1, 1, 1, 1, 1, 1, 1, 4, 8]  # of 10 draws: half, half, ..., two, four
    plan = BatchPlan(seed=0, size=10, batch=10, weights=weights)
    drawn = np.zeros((200, 10), int)
    for epoch in range(200):
        places = plan[epoch]
        assert {p.epoch for p in places} == {epoch} and len(set(places)) == 10
        for index in range(10):
            copies = sorted(p.copy for p in places if p.index == index)
            assert copies == list(range(len(copies)))
            drawn[epoch, index] = len(copies)
    assert (drawn[:, 8] == 2).all() and (drawn[:, 9] == 4).all()  # whole shares leave no chance
    assert set(drawn[:, :8].ravel()) == {0, 1}
    assert drawn[:, :8].mean(axis=0) == pytest.approx(0.5, abs=0.12)
    assert len({tuple(row) for row in drawn[:, :8]}) > 50  # not always the same neighbours


def test_copies_of_an_image_stand_anywhere_in_the_epoch():
    """Not side by side, where a batch would be few images many times."""
    plan = BatchPlan(seed=0, size=1000, batch=10, weights=[1.0] * 900 + [9.0] * 100)
    batches = [[p.index for p in plan[step]] for step in range(1000)]  # ten epochs
    twice = sum(len(batch) - len(set(batch)) for batch in batches)
    # Half of a place's draws go to the 100 images of five copies, so one of the 45 pairs in a
    # batch is the same image once in eleven batches by chance; side by side it were in most.
    assert 60 < twice < 120
    stream = sum(batches, [])
    gaps = np.diff([i for i, index in enumerate(stream[:1000]) if index == 999])
    assert gaps.max() > 20 and gaps.min() > 1


def test_equal_weights_are_every_image_once():
    plan = BatchPlan(seed=0, size=50, batch=50, weights=[3.0] * 50)
    assert sorted(indices(plan, range(1))) == list(range(50))
    assert {p.copy for p in plan[0]} == {0}


def test_a_plan_without_weights_is_what_it_was():
    """The order of a run that goes on under a newer version."""
    rng = [generator(5, "epoch", epoch).permutation(9).tolist() for epoch in (0, 1)]
    assert indices(BatchPlan(seed=5, size=9, batch=9), range(2)) == sum(rng, [])
