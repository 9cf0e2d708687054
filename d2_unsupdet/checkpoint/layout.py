"""What a layout of names is: how to recognise it, what to drop, what to rename."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Rules = tuple[tuple[str, str], ...]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Arranged:
    """A state whose tensors are one to one those of the model, still under the layout's names.

    Args:
        state: what the renames are for.
        origin: name in the file -> name in `state`; joined tensors share one.
        dropped: name in the file -> reason.
    """

    state: State
    origin: dict[str, str]
    dropped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """A layout of names, as regular expressions.

    Example:
        >>> FORMATS["moco"].to_hub("module.encoder_q.layer1.0.bn1.weight")
        'res2.0.conv1.norm.weight'

    Args:
        about: whose files look like this.
        marks: each of them matches at least one whole name.
        lacks: none of them matches any name.
        prefix: stands before the names that are wanted; names without it are dropped.
        drops: (pattern, reason) for the start of a name behind the prefix.
        renames: (pattern, replacement) pairs, in order: from this layout to Detectron2's.
        back: the same in the other direction; None where nothing is ever written in this layout.
        resnet: whether the renamed tensors must be a whole ResNet.
        detector: whether they are a whole DETR-style detector, which no other layout can hold.
        arrange: drops repeated tensors and joins split ones, before the renames.
        restore: the repeated tensors again, after `back`; a UserError where something is lost.
    """

    name: str
    about: str
    marks: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    prefix: str = ""
    drops: Rules = ()
    renames: Rules = ()
    back: Rules | None = None
    resnet: bool = field(default=True, kw_only=True)
    detector: bool = field(default=False, kw_only=True)
    arrange: Callable[[Mapping[str, Tensor]], Arranged] | None = field(default=None, kw_only=True)
    restore: Callable[[State], State] | None = field(default=None, kw_only=True)

    def fits(self, names: Iterable[str]) -> bool:
        """Whether a file with these names is of this layout."""
        text = "\n".join(names)

        def found(pattern: str) -> bool:
            return re.search(rf"^(?:{pattern})$", text, re.MULTILINE) is not None

        return all(map(found, self.marks)) and not any(map(found, self.lacks))

    def drop_reason(self, name: str) -> str | None:
        """Why a name of this layout is left out, or None for one that is kept."""
        match = re.match(self.prefix, name)
        if match is None:
            return f"outside {_readable(self.prefix)}"
        rest = name[match.end() :]
        return next((why for pattern, why in self.drops if re.match(pattern, rest)), None)

    def strip(self, name: str) -> str:
        """A name without what stands before it."""
        return re.sub(rf"^(?:{self.prefix})", "", name)

    def to_hub(self, name: str) -> str:
        """The name of a kept tensor in Detectron2's layout."""
        return apply_rules(self.renames, self.strip(name))

    def from_hub(self, name: str) -> str:
        """The name in this layout of one of Detectron2's."""
        assert self.back is not None, self.name
        return apply_rules(self.back, name)


def apply_rules(rules: Rules, name: str) -> str:
    """All substitutions, in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _readable(pattern: str) -> str:
    return pattern.replace("\\", "").replace("(module.)?", "")
