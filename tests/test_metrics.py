"""Metrics wait on the device as means since the last drain."""

import torch

from d2_unsupdet.metrics import below_floor, drain_metrics, log_metric


def test_mean_since_the_last_drain_without_gradient():
    drain_metrics()
    weight = torch.tensor([1.0, 3.0], requires_grad=True)
    log_metric("a", weight)  # mean 2
    log_metric("a", torch.tensor(5.0))
    log_metric("b", torch.tensor([True, False]))
    metrics = drain_metrics()
    assert {k: v.item() for k, v in metrics.items()} == {"a": 3.5, "b": 0.5}
    assert not metrics["a"].requires_grad
    assert drain_metrics() == {}


def test_a_floor_is_named_only_by_what_lies_under_it():
    drain_metrics()
    log_metric("first/std", torch.tensor(0.01), warn_below=0.02)
    log_metric("second/std", torch.tensor(0.03), warn_below=0.02)
    means = {name: float(value) for name, value in drain_metrics().items()}
    assert below_floor(means) == {"first/std": 0.02}
    assert below_floor({}) == {}
