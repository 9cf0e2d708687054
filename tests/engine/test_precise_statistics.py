"""The pass before an evaluation: true averages, counters left alone, and said beforehand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from d2_unsupdet.engine import progress
from d2_unsupdet.engine.precise_statistics import update_statistics


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, batch):
        return self.norm(torch.stack(batch))


BATCHES = [[torch.tensor([float(i), 2.0 * k]) for k in range(4)] for i in range(6)]
LOADER = SimpleNamespace(plan=SimpleNamespace(batch=4), from_step=lambda step: iter(BATCHES))


def test_statistics_are_those_of_the_batches(caplog):
    caplog.set_level("INFO")
    net = Net().train()
    update_statistics(net, LOADER, 3)
    values = torch.stack([sample for batch in BATCHES[:3] for sample in batch])
    assert torch.allclose(net.norm.running_mean, values.mean(0))
    assert net.norm.num_batches_tracked == 0
    assert "before the evaluation 12 images (3 training batches)" in caplog.text
    assert "train.precise_bn.enabled=false does without" in caplog.text
    assert caplog.text.index("12 images") < caplog.text.index("Computing precise BN")
    assert "left" not in caplog.text  # it took no half minute


def test_a_long_pass_says_how_far_it_is(caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    update_statistics(Net().train(), LOADER, 3)
    assert "statistics of batch norm: 4 of 12 images" in caplog.text
    assert "8 of 12 images" in caplog.text


@pytest.mark.parametrize("model", [nn.Linear(2, 2), Net().eval()])
def test_nothing_to_average_is_nothing_to_say(model, caplog):
    caplog.set_level("INFO")
    update_statistics(model, LOADER, 3)
    assert not caplog.text
