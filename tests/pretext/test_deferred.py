"""When stored updates are applied, and when they are not."""

import pytest
import torch
from torch import Tensor, nn

from d2_unsupdet.pretext.deferred import DeferredUpdates


class Counter(DeferredUpdates):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))
        self.applied: list[list[float]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.start_forward()
        self.defer(keys=x)
        return self.total + x

    def apply_updates(self, outstanding) -> None:
        self.applied.append([entry["keys"].item() for entry in outstanding])
        self.total += sum(entry["keys"] for entry in outstanding)


def test_all_forwards_of_a_step_see_one_state_and_commit_together():
    model = Counter()
    model.auto_commit = False
    assert [model(torch.tensor(x)).item() for x in (1.0, 2.0)] == [1.0, 2.0]
    model.commit()
    model.commit()  # nothing is outstanding any more
    assert model.applied == [[1.0, 2.0]] and model.total == 3


def test_discard_leaves_no_trace():
    model = Counter()
    model.auto_commit = False
    model(torch.tensor(1.0))
    model.discard()
    model.commit()
    assert model.applied == [] and model.total == 0


def test_a_loop_that_knows_nothing_commits_at_the_next_forward_and_when_saving():
    model = Counter()
    model(torch.tensor(1.0))
    model(torch.tensor(2.0))
    assert model.applied == [[1.0]]
    saved = nn.ModuleDict({"inner": model}).state_dict()  # as DistributedDataParallel would
    assert saved["inner.total"] == 3 and model.applied == [[1.0], [2.0]]


def test_saving_does_not_commit_for_a_trainer_that_commits_itself():
    model = Counter()
    model.auto_commit = False
    model(torch.tensor(1.0))
    assert model.state_dict()["total"] == 0


def test_stored_keys_carry_no_gradient():
    model = Counter()
    x = torch.tensor(1.0, requires_grad=True)
    model(x)
    model.commit()
    assert not model.total.requires_grad


def test_a_subclass_must_say_what_to_apply():
    class Forgotten(DeferredUpdates):
        pass

    model = Forgotten()
    model.defer(keys=torch.zeros(1))
    with pytest.raises(NotImplementedError):
        model.commit()
