"""The bank against a deque: order, wrap-around, independence, what is saved."""

from collections import deque

import pytest
import torch

from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.key_queue import KeyQueue


def test_starts_with_unit_vectors_whatever_the_seed():
    torch.manual_seed(1)
    first = KeyQueue(size=10, dim=4)
    torch.manual_seed(2)
    second = KeyQueue(size=10, dim=4)
    torch.testing.assert_close(first.keys.norm(dim=1), torch.ones(10))
    assert torch.equal(first.keys, second.keys)
    assert not torch.equal(first.keys, KeyQueue(size=10, dim=4, name="res4").keys)


@pytest.mark.parametrize("batches", [[4] * 7, [10, 10], [3, 7, 9, 1, 10, 2], [1] * 25])
def test_keeps_the_newest_like_a_deque(batches):
    queue = KeyQueue(size=10, dim=1)
    expected = deque(queue.keys[:, 0].tolist(), maxlen=10)
    value = 0.0
    for size in batches:
        keys = torch.arange(size, dtype=torch.float32) + value
        value += size
        queue.enqueue(keys[:, None])
        expected.extend(keys.tolist())
        oldest_first = queue.keys[:, 0].roll(-int(queue.pointer))
        assert oldest_first.tolist() == list(expected)


def test_two_banks_have_two_pointers():
    first, second = KeyQueue(size=8, dim=2), KeyQueue(size=8, dim=2)
    before = second.keys.clone()
    first.enqueue(torch.ones(3, 2))
    assert int(first.pointer) == 3 and int(second.pointer) == 0
    assert torch.equal(second.keys, before)


def test_a_batch_larger_than_the_bank_is_a_sentence():
    with pytest.raises(
        UserError, match="'res5' holds 4 keys but one step brings 5; set the queue size"
    ):
        KeyQueue(size=4, dim=2, name="res5").enqueue(torch.ones(5, 2))
    with pytest.raises(UserError, match="queue size 0"):
        KeyQueue(size=0, dim=2)


def test_round_trip_continues_where_it_was():
    queue, resumed = KeyQueue(size=5, dim=2), KeyQueue(size=5, dim=2, name="other")
    queue.enqueue(torch.ones(3, 2))
    resumed.load_state_dict(queue.state_dict())
    for q in (queue, resumed):
        q.enqueue(torch.full((4, 2), 2.0))
    assert torch.equal(queue.keys, resumed.keys) and torch.equal(queue.pointer, resumed.pointer)


def test_bf16_keys_are_kept_in_fp32():
    queue = KeyQueue(size=4, dim=2)
    queue.enqueue(torch.full((1, 2), 0.5, dtype=torch.bfloat16))
    assert queue.keys.dtype == torch.float32 and queue.keys[0].tolist() == [0.5, 0.5]
