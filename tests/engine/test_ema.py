"""The moving average: its law, its counter, and the swap for evaluation."""

import torch
from torch import nn

from d2_unsupdet.engine.ema import ModelEMA


def model_at(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)
    return model


def test_law_with_warm_up_counter():
    model = model_at(0.0)
    ema = ModelEMA(model, decay=0.5)
    expected = 0.0
    for step in range(1, 30):
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(float(step))
        ema.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert torch.allclose(ema.average["0.weight"], torch.full((2, 2), expected))


def test_counter_survives_a_round_trip():
    model = model_at(1.0)
    ema = ModelEMA(model, decay=0.9)
    for _ in range(5):
        ema.update(model)
    other = ModelEMA(model_at(3.0), decay=0.9)
    other.load_state_dict(ema.state_dict())
    assert other.updates == 5
    assert all(torch.equal(other.average[k], v) for k, v in ema.average.items())


def test_swap_restores_the_model_bit_for_bit():
    model = model_at(1.0)
    ema = ModelEMA(model, decay=0.9)
    for p in model.parameters():
        p.data += torch.rand_like(p)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with ema.applied_to(model):
        assert torch.equal(model[0].weight, torch.ones(2, 2))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
