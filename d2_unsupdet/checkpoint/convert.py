"""Convert weights between layouts by way of Detectron2's names; half a ResNet is an error."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from d2_unsupdet.checkpoint.formats import FORMATS, HUB, Format, detect, get_format
from d2_unsupdet.checkpoint.resnet import COUNTER, Completeness, bare_name, check_resnet
from d2_unsupdet.errors import UserError

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ConversionReport:
    """What became of every tensor of the source.

    Args:
        depth: of the ResNet found, None if the layout does not hold one.
        names: source name -> target name.
        dropped: source name -> reason.
    """

    source: str
    target: str
    depth: int | None
    names: dict[str, str]
    dropped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        net = f", ResNet-{self.depth}" if self.depth else ""
        lines = [f"{self.source} -> {self.target}{net}: {len(self.names)} tensors converted"]
        for reason, count in Counter(self.dropped.values()).items():
            lines.append(f"  {count} dropped ({reason})")
        return "\n".join(lines)


class IncompleteError(UserError):
    """The tensors are not a whole ResNet; `completeness` holds the full lists."""

    def __init__(self, completeness: Completeness) -> None:
        c = completeness
        parts = ((c.missing, "missing"), (c.unexpected, "unexpected"), (c.misshaped, "mis-shaped"))
        said = "; ".join(f"{len(names)} {what}: {_some(names)}" for names, what in parts if names)
        super().__init__(f"This is not a whole ResNet-{c.depth} ({said}); fetch the file again.")
        self.completeness = completeness


def convert(
    state: Mapping[str, torch.Tensor],
    source: str | Format | None = None,
    target: str = HUB,
) -> tuple[State, ConversionReport]:
    """Rename `state` from `source` (detected when None) to `target`; the tensors are not copied."""
    found = detect(state) if source is None else _as_format(source)
    goal = get_format(target)
    if goal.back is None:
        possible = ", ".join(f.name for f in FORMATS.values() if f.back is not None)
        raise UserError(f"Nothing can be converted to {target}; possible are {possible}.")
    dropped = {name: why for name in state if (why := found.drop_reason(name))}
    names = {name: found.to_hub(name) for name in state if name not in dropped}
    depth = _check_whole(found, {hub: state[name] for name, hub in names.items()})
    if goal.name != HUB:
        names, dropped = _leave_hub(goal, names, dropped)
    _check_unique(names)
    report = ConversionReport(found.name, goal.name, depth, names, dropped)
    return {new: state[old] for old, new in names.items()}, report


def _as_format(source: str | Format) -> Format:
    return source if isinstance(source, Format) else get_format(source)


def _check_whole(found: Format, hub: State) -> int | None:
    """A bare ResNet holds nothing else; the other parts of a whole detector are not checked."""
    if not found.resnet:
        return None
    bare = {short: tensor for name, tensor in hub.items() if (short := bare_name(name))}
    result = check_resnet(bare)
    if found.name == HUB and any(bare_name(name) != name for name in hub):
        result = Completeness(result.depth, result.missing, [], result.misshaped)
    if not result:
        for kind in ("missing", "unexpected", "misshaped"):
            for name in getattr(result, kind):
                log.error("%s: %s", kind, name)
        raise IncompleteError(result)
    return result.depth


def _leave_hub(
    goal: Format, names: dict[str, str], dropped: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Only the ResNet goes on; the norm that some detectors put behind res5 is not part of it."""
    bare = {old: bare_name(hub) for old, hub in names.items()}
    kept = {
        old: goal.from_hub(b) for old, b in bare.items() if b and not b.startswith("res5.norm.")
    }
    lost = {old: f"no place in {goal.name}" for old in names if old not in kept}
    return kept, dropped | lost


def _check_unique(names: dict[str, str]) -> None:
    sources = defaultdict(list)
    for old, new in names.items():
        sources[new].append(old)
    for new, olds in sources.items():
        if len(olds) > 1:
            raise UserError(
                f"{' and '.join(olds)} would both become {new}: the file holds more than one "
                "network, so convert the exported weights instead."
            )


def parameter_count(state: Mapping[str, torch.Tensor]) -> int:
    """How many values there are, without the step counters of BatchNorm."""
    return sum(t.numel() for name, t in state.items() if not name.endswith(COUNTER))


def _some(names: list[str], limit: int = 6) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
