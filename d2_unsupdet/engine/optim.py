"""Parameter groups by name pattern: learning-rate and weight-decay factors, norms, frozen rates."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from d2_unsupdet.errors import UserError

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float = 0.0,
    norm_weight_decay: float | None = None,
    bias_weight_decay: float | None = None,
    rules: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Trainable parameters, grouped by the settings that apply to them.

    >>> parameter_groups(model, base_lr=2e-4, rules=[
    ...     {"match": r"sampling_offsets|reference_points", "lr_factor": 0.1},
    ...     {"match": r"^predictor", "fixed_lr": True}])

    Args:
        model: whose `requires_grad` parameters are grouped.
        base_lr: the rate that factors refer to.
        weight_decay: for every parameter that nothing else names.
        norm_weight_decay: for weights and biases of normalisation layers; None keeps the default.
        bias_weight_decay: for other biases; None keeps the default.
        rules: the first whose `match` is found in a name applies to it; it may set `lr_factor`,
            `weight_decay` and `fixed_lr` (the schedule leaves that group alone).
    """
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters()}
    used: set[int] = set()
    groups: dict[tuple, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        settings: dict[str, Any] = {"lr": base_lr, "weight_decay": weight_decay}
        if id(parameter) in norms and norm_weight_decay is not None:
            settings["weight_decay"] = norm_weight_decay
        elif name.endswith("bias") and bias_weight_decay is not None:
            settings["weight_decay"] = bias_weight_decay
        for number, rule in enumerate(rules):
            if re.search(rule["match"], name):
                used.add(number)
                settings["lr"] = base_lr * rule.get("lr_factor", 1.0)
                settings["weight_decay"] = rule.get("weight_decay", settings["weight_decay"])
                settings["fixed_lr"] = rule.get("fixed_lr", False)
                break
        if parameter.requires_grad:
            key = tuple(sorted(settings.items()))
            groups.setdefault(key, {"params": [], **settings})["params"].append(parameter)
    for number, rule in enumerate(rules):
        if number not in used:
            raise UserError(
                f"optimizer.params.rules: no parameter name matches '{rule['match']}', or earlier "
                "rules take them all."
            )
    if not groups:
        raise UserError("The model has no trainable parameter; something froze all of it.")
    return list(groups.values())
