"""Parts of a model that keep their values: `train.freeze`.

Without gradient alone, batch norm would go on collecting statistics and dropout drop features: what
is frozen as a whole also runs as in evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from d2_unsupdet.errors import UserError


@dataclass(frozen=True)
class Frozen:
    """What `freeze` has frozen.

    Args:
        parts: by name, the largest modules without a parameter that learns.
        parameters: values in all frozen tensors.
    """

    parts: dict[str, nn.Module]
    parameters: int

    def hold(self) -> None:
        """Put the parts into evaluation mode; after every `model.train()`."""
        for part in self.parts.values():
            part.eval()

    def __str__(self) -> str:
        names = ", ".join(self.parts) or "single tensors"
        return f"{names}: {self.parameters / 1e6:.2f} M parameters, as in evaluation"


NOTHING = Frozen({}, 0)


def freeze(model: nn.Module, patterns: Sequence[str]) -> Frozen:
    """Take the gradient from parameters whose names fit; `!pattern` gives it back.

    >>> freeze(detector, ["*", "!heads.*"])    # heads-only transfer

    Args:
        model: whose parameters are frozen.
        patterns: shell patterns of parameter names, read in order: the last that fits counts.
    """
    names = [name for name, _ in model.named_parameters()]
    chosen: set[str] = set()
    for pattern in patterns:
        fits = {name for name in names if fnmatchcase(name, pattern.removeprefix("!"))}
        if not fits:
            parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise UserError(
                f"train.freeze: no parameter's name fits '{pattern}'; the model's parts are "
                f"{parts}, for example '{names[0].partition('.')[0]}.*'."
            )
        chosen = chosen - fits if pattern.startswith("!") else chosen | fits
    if chosen and len(chosen) == len(names):
        raise UserError(
            f"train.freeze={list(patterns)} freezes the whole model; leave out what is to be "
            "trained, for example with '!heads.*' at the end."
        )
    count = 0
    for name, parameter in model.named_parameters():
        if name in chosen:
            parameter.requires_grad_(False)
            count += parameter.numel()
    return Frozen(dict(_largest(model, chosen, "")), count) if chosen else NOTHING


def _largest(module: nn.Module, chosen: set[str], prefix: str) -> list[tuple[str, nn.Module]]:
    found = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        own = {f"{path}.{parameter}" for parameter, _ in child.named_parameters()}
        if own and own <= chosen:
            found.append((path, child))
        elif own & chosen:
            found += _largest(child, chosen, f"{path}.")
    return found
