"""Convert weights between layouts by way of Detectron2's names.

Half a ResNet is an error, and so is half a DETR-style detector.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from d2_unsupdet.checkpoint.class_heads import (
    DROP,
    KEEP,
    choose_classes,
    class_rows,
    has_class_heads,
    has_detector,
    is_class_tensor,
)
from d2_unsupdet.checkpoint.detr_names import official_name
from d2_unsupdet.checkpoint.detr_whole import check_detector, check_layers
from d2_unsupdet.checkpoint.formats import FORMATS, HUB, detect, get_format
from d2_unsupdet.checkpoint.layout import Format, State
from d2_unsupdet.checkpoint.pretext_names import (
    WRAPPER,
    is_own,
    is_pretext,
    is_wrapped,
    layout_of,
    only_object,
    unwrapped,
)
from d2_unsupdet.checkpoint.resnet import COUNTER, Completeness, bare_name, check_resnet
from d2_unsupdet.errors import UserError

log = logging.getLogger(__name__)

PRETEXT = "pretext"  # a target: the names of a box pretext of ours, with the detector inside
OBJECT = "object"  # of its class heads: the rows of the one class that ours have


@dataclass(frozen=True)
class ConversionReport:
    """What became of every tensor of the source.

    Args:
        depth: of the ResNet found, None if the layout does not hold one.
        names: source name -> target name; tensors that were joined share one.
        dropped: source name -> reason.
        classes: name of ours -> which rows of a class head were taken.
    """

    source: str
    target: str
    depth: int | None
    names: dict[str, str]
    dropped: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        net = f", ResNet-{self.depth}" if self.depth else ""
        lines = [f"{self.source} -> {self.target}{net}: {len(self.names)} tensors converted"]
        for reason, count in Counter(self.dropped.values()).items():
            lines.append(f"  {count} dropped ({reason})")
        for said, count in Counter(self.classes.values()).items():
            lines.append(f"  {count} tensors of class heads: {said}")
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
    *,
    classes: str = KEEP,
) -> tuple[State, ConversionReport]:
    """Rename `state` from `source` (detected when None) to `target`; most tensors are not copied.

    A file of a box pretext (UP-DETR, DETReg, Siamese DETR) becomes the detector to finetune, which
    has no class heads yet, or with the target `pretext` the whole pretext.

    Args:
        classes: of a DETR's class heads: `keep`, `coco80` (91 COCO ids to 80 classes), `drop`, or a
            JSON file with a list of row numbers; with the target `pretext` also `object`, the rows
            of the one class that ours have.
    """
    found = detect(state) if source is None else _as_format(source)
    if target == PRETEXT:
        return _to_pretext(found, state, classes)
    goal = get_format(target)
    opened: dict[str, str] = {}
    if found.name == HUB and is_wrapped(state):
        state, opened = unwrapped(state)
    if goal.back is None:
        possible = ", ".join(f.name for f in FORMATS.values() if f.back is not None)
        raise UserError(f"Nothing can be converted to {target}; possible are {possible}.")
    hub, names, dropped = _to_hub(found, state)
    depth = _check_whole(found, hub)
    if is_pretext(found):
        hub, names, dropped = _downstream(hub, names, dropped)
    if opened:
        names = {WRAPPER + name: new for name, new in names.items()}
        dropped |= opened
    if opened or is_pretext(found):
        _check_no_classes(classes)
        classes = KEEP
    chosen = class_rows(classes)
    said: dict[str, str] = {}
    if chosen:
        hub, said = choose_classes(hub, chosen)
        dropped |= {old: said[new] for old, new in names.items() if new not in hub}
        names = {old: new for old, new in names.items() if new in hub}
        said = {new: why for new, why in said.items() if new in hub}
    if goal.detector:
        result, names = _write_detector(goal, hub, names)
    else:
        moves = {new: new for new in hub}
        if goal.name != HUB:
            moves, lost = _leave_hub(goal, moves, {})
            dropped |= {old: lost[new] for old, new in names.items() if new in lost}
        _check_unique(moves)
        names = {old: moves[new] for old, new in names.items() if new in moves}
        result = {moves[new]: tensor for new, tensor in hub.items() if new in moves}
    return result, ConversionReport(found.name, goal.name, depth, names, dropped, said)


def _to_pretext(
    found: Format, state: Mapping[str, torch.Tensor], classes: str
) -> tuple[State, ConversionReport]:
    """All of it, the detector's names behind their prefix."""
    if not is_pretext(found):
        raise UserError(
            f"A file of {found.name} is none of a box pretext: convert it without --to, and it "
            "loads into a pretext too."
        )
    hub, names, dropped = _to_hub(found, state)
    depth = _check_whole(found, hub)
    said: dict[str, str] = {}
    if classes == OBJECT:
        hub, said = only_object(found.name, hub)
    elif classes != KEEP:
        raise UserError(f"Of a pretext's class heads keep and object can be had, not {classes}.")
    moves = {name: name if is_own(name) else WRAPPER + name for name in hub}
    return {moves[name]: tensor for name, tensor in hub.items()}, ConversionReport(
        found.name,
        PRETEXT,
        depth,
        {old: moves[new] for old, new in names.items()},
        dropped,
        {moves[name]: what for name, what in said.items()},
    )


def _check_no_classes(classes: str) -> None:
    if classes not in (KEEP, DROP):
        raise UserError(
            f"classes={classes}: the file is of a pretext, whose class head knows no classes; "
            "write keep or drop, which leave it out."
        )


def _downstream(
    hub: State, names: dict[str, str], dropped: dict[str, str]
) -> tuple[State, dict[str, str], dict[str, str]]:
    """The detector that is finetuned: without what only pretraining has."""
    lost = {name: "head of the pretext" for name in hub if is_own(name)}
    lost |= {name: "class head of the pretext" for name in hub if is_class_tensor(name)}
    return (
        {name: tensor for name, tensor in hub.items() if name not in lost},
        {old: new for old, new in names.items() if new not in lost},
        dropped | {old: lost[new] for old, new in names.items() if new in lost},
    )


def _to_hub(
    found: Format, state: Mapping[str, torch.Tensor]
) -> tuple[State, dict[str, str], dict[str, str]]:
    """The state under our names, source name -> ours, and what was dropped for which reason."""
    dropped = {name: why for name in state if (why := found.drop_reason(name))}
    if found.arrange is None:
        names = {name: found.to_hub(name) for name in state if name not in dropped}
        _check_unique(names)
        hub = {new: state[old] for old, new in names.items()}
    else:
        kept = {found.strip(name): name for name in state if name not in dropped}
        arranged = found.arrange({bare: state[name] for bare, name in kept.items()})
        dropped |= {kept[bare]: why for bare, why in arranged.dropped.items()}
        ours = {name: found.to_hub(name) for name in arranged.state}
        _check_unique(ours)
        names = {kept[bare]: ours[new] for bare, new in arranged.origin.items()}
        hub = {ours[name]: tensor for name, tensor in arranged.state.items()}
    if is_pretext(found):
        inner = get_format(layout_of(hub))
        detector = {name: tensor for name, tensor in hub.items() if not is_own(name)}
        check_detector(
            inner.name,
            detector,
            lambda name: official_name(inner, hub, name),
            classes=has_class_heads(detector),
        )
    elif found.detector:
        layout = found.name.removeprefix("hf_")
        check_detector(layout, hub, lambda name: official_name(found, hub, name))
    elif has_detector(hub):
        check_layers(hub)
    return hub, names, dropped


def _write_detector(
    goal: Format, hub: State, names: dict[str, str]
) -> tuple[State, dict[str, str]]:
    """A whole detector under the names of its origin; it must be one of that kind."""
    if not has_detector(hub):
        raise UserError(f"Only a whole detector can become {goal.name}; this file has no heads.")
    moves = {new: goal.from_hub(new) for new in hub}
    result = {moves[new]: tensor for new, tensor in hub.items()}
    if not goal.fits(result):
        raise UserError(f"The file holds another detector than {goal.name}: change --to.")
    check_detector(goal.name, hub, classes=has_class_heads(hub))
    if goal.restore:
        result = goal.restore(result)
    lost = [new for new, name in moves.items() if name == new]
    if lost:
        raise UserError(f"{goal.name} has no place for {len(lost)} tensors ({lost[0]}, ...).")
    return result, {old: moves[new] for old, new in names.items()}


def _as_format(source: str | Format) -> Format:
    return source if isinstance(source, Format) else get_format(source)


def _check_whole(found: Format, hub: State) -> int | None:
    """A bare ResNet holds nothing else; of a whole detector, this is the part below the others."""
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
