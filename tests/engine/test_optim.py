"""Who lands in which parameter group."""

import pytest
from torch import nn

from d2_unsupdet.engine.optim import parameter_groups
from d2_unsupdet.errors import UserError


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.predictor = nn.Linear(4, 4)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def settings(model, groups):
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        names[id(p)]: (g["lr"], g["weight_decay"], g.get("fixed_lr", False))
        for g in groups
        for p in g["params"]
    }


def test_norms_biases_and_rules():
    model = Toy()
    groups = parameter_groups(
        model,
        base_lr=1.0,
        weight_decay=0.1,
        norm_weight_decay=0.0,
        bias_weight_decay=0.05,
        rules=[{"match": "^predictor", "lr_factor": 0.5, "fixed_lr": True}],
    )
    assert settings(model, groups) == {
        "backbone.0.weight": (1.0, 0.1, False),
        "backbone.0.bias": (1.0, 0.05, False),
        "backbone.1.weight": (1.0, 0.0, False),
        "backbone.1.bias": (1.0, 0.0, False),
        "predictor.weight": (0.5, 0.1, True),
        "predictor.bias": (0.5, 0.05, True),
    }


def test_a_rule_that_matches_nothing_is_an_error():
    with pytest.raises(UserError, match="no parameter name matches 'predictr'"):
        parameter_groups(Toy(), base_lr=1.0, rules=[{"match": "predictr"}])


def test_a_wholly_frozen_model_is_an_error():
    with pytest.raises(UserError, match="no trainable parameter"):
        parameter_groups(Toy().requires_grad_(False), base_lr=1.0)
