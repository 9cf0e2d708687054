"""Load weights into a model, say what happened to every tensor, stop the run if too much missed.

Names match exactly, or by the longest dotted suffix as in Detectron2, so that one file with
`res4.0.conv1.weight` fits `backbone.res4...` (C4) and `backbone.bottom_up.res4...` (FPN).
"""

import fnmatch
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from d2_unsupdet.checkpoint.class_heads import (
    COCO_ROWS,
    ENCODER_STAGE,
    KEEP,
    ClassRows,
    choose_classes,
    class_rows,
    has_class_heads,
    has_detector,
    is_class_tensor,
)
from d2_unsupdet.checkpoint.convert import convert, parameter_count
from d2_unsupdet.checkpoint.files import read_weights
from d2_unsupdet.checkpoint.formats import FORMATS, HUB
from d2_unsupdet.checkpoint.pretext_names import is_pretext, method_of
from d2_unsupdet.checkpoint.pretext_view import TEACHER, PretextView, check_norms
from d2_unsupdet.checkpoint.published import located
from d2_unsupdet.checkpoint.report import LoadReport
from d2_unsupdet.checkpoint.resnet import COUNTER, bare_name, nearest_depth, resnet_shapes
from d2_unsupdet.errors import UserError

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]
ENCODER = "proposals."  # what only two-stage detectors and DETA have
_BLOCK = re.compile(r"(stem|res[2-5]\.\d+)\..+")  # not `res5.norm`, the extra norm of a C4 head


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, torch.Tensor],
    *,
    min_coverage: float = 0.9,
    allow_missing: Sequence[str] | None = None,
    allow_mismatch: Sequence[str] = (),
    allow_unsafe: bool = False,
    expected_sha256: str | None = None,
    classes: str = KEEP,
) -> LoadReport:
    """Load a file (or a state dict) of any known layout into `model`, or raise a UserError.

    Args:
        source: a file, a published folder, `hub:owner/name[@revision]`, or name -> tensor.
        min_coverage: share of the file's values that the model must take, 0-1.
        allow_missing: patterns (`roi_heads.*`) of model tensors that may keep their initial values;
            None: all but those of a ResNet, and in a DETR-style detector none unless the file holds
            a backbone alone. Class heads need no pattern under classes=drop, or where the file of a
            pretrained detector has none, nor do the heads of a pretext where the file holds a
            detector. An empty list allows nothing at all.
        allow_mismatch: patterns of model tensors that keep their initial values where the file has
            another shape, e.g. class heads for another number of classes.
        allow_unsafe: run code that the file brings along.
        expected_sha256: refuse the file if this is not its hash (8 digits or more).
        classes: of a DETR's class heads: `keep`, `coco80` (91 COCO ids to 80 classes), `drop` (they
            start anew), or a JSON file with a list of row numbers.
    """
    if isinstance(source, Mapping):
        label, state = "the given state", dict(source)
    else:
        label = str(source)
        path = located(source)
        file = read_weights(path, allow_unsafe=allow_unsafe, expected_sha256=expected_sha256)
        state = file.state
    every = {n: t for n, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
    # a box pretext copies its teacher from the backbone that is loaded here
    view = PretextView.of(n for n in every if not n.startswith(TEACHER))
    target = {short: every[name] for short, name in view.names.items()}
    allow_mismatch = view.patterns(allow_mismatch)
    allow_missing = None if allow_missing is None else view.patterns(allow_missing)
    plan = _plan(label, view, state, target, classes)
    _cut_encoder_stage(plan, target)
    _check_depth(plan, target)
    check_norms(label, plan.state, target)
    _drop_misshaped(plan, target, allow_mismatch)
    report = plan.report(target)
    missing = _missing(plan, view, report, target, allow_missing, class_rows(classes))
    _check(report, min_coverage, missing)
    found = {view.names[name]: plan.state[old] for name, old in plan.names.items()}
    model.load_state_dict(found, strict=False)
    return view.renamed(report)


@dataclass
class _Plan:
    """Which tensor goes where, before anything is touched."""

    label: str
    layout: str
    state: State  # under the names that are matched
    names: dict[str, str]  # model name -> name in `state`
    dropped: dict[str, str] = field(default_factory=dict)  # by the layout or by shape -> reason
    misshaped: dict[str, str] = field(default_factory=dict)  # model name -> name in `state`
    classes: dict[str, str] = field(default_factory=dict)  # class heads: name -> what happened

    def report(self, target: State) -> LoadReport:
        used = {*self.names.values(), *self.misshaped.values()}
        placed = {*self.names, *self.misshaped}
        unused = [n for n in self.state if n not in used and not n.endswith(COUNTER)]
        new = [n for n in target if n not in placed and not n.endswith(COUNTER)]
        return LoadReport(
            source=self.label,
            layout=self.layout,
            matched={n: target[n].numel() for n in self.names if not n.endswith(COUNTER)},
            new={n: target[n].numel() for n in new},
            unused={n: self.state[n].numel() for n in unused},
            dropped=self.dropped,
            classes=self.classes,
            model_values=parameter_count(target),
            source_values=parameter_count(self.state),
        )


def match_names(model_names: Iterable[str], source_names: Iterable[str]) -> dict[str, str]:
    """Model name -> source name: equal, else the longest source name that is a dotted suffix."""
    model_names, free = list(model_names), set(source_names)
    pairs = {name: name for name in model_names if name in free}
    free -= pairs.keys()
    users = defaultdict(list)
    for name in model_names:
        if name not in pairs and (suffix := _longest_suffix(name, free)):
            users[suffix].append(name)
    for suffix, takers in users.items():
        if len(takers) > 1:
            raise UserError(
                f"{suffix} fits more than one tensor of the model ({', '.join(takers[:3])}); load "
                "the part you mean, or a file with full names."
            )
        pairs[takers[0]] = suffix
    return pairs


def _longest_suffix(name: str, names: set[str]) -> str | None:
    while "." in name:
        name = name.partition(".")[2]
        if name in names:
            return name
    return None


def _plan(label: str, view: PretextView, state: State, target: State, classes: str) -> _Plan:
    """Take the names as they are if the model knows most of them; otherwise find the layout."""
    state, of_pretext = view.opened(state, target)
    plan = _named(label, view, state, target, classes)
    plan.dropped = of_pretext | plan.dropped
    return plan


def _named(label: str, view: PretextView, state: State, target: State, classes: str) -> _Plan:
    exact = sum(name in target for name in state)
    if 2 * exact >= len(state):
        state, dropped, said = _choose(state, classes)
        return _Plan(label, "same names", state, match_names(target, state), dropped, classes=said)
    layouts = [entry for entry in FORMATS.values() if entry.fits(state)]
    if len(layouts) != 1:
        return _Plan(label, "unknown layout", state, match_names(target, state))
    if view.wrapped and is_pretext(layouts[0]):
        state, dropped, said = view.converted(state, layouts[0], target)
        state, left_out, chosen = _choose(state, classes)
        dropped, said = dropped | left_out, said | chosen
    elif layouts[0].name != HUB:
        state, converted = convert(state, layouts[0], classes=classes)
        dropped, said = converted.dropped, converted.classes
    else:
        state, dropped, said = _choose(state, classes)
    pairs = match_names(target, state)
    if not any(bare_name(name) for name in pairs):
        # a whole detector with another prefix before its ResNet (FPN's into C4's)
        state = _bare(label, state)
        pairs = match_names(target, state)
    return _Plan(label, layouts[0].name, state, pairs, dropped, classes=said)


def _choose(state: State, classes: str) -> tuple[State, dict[str, str], dict[str, str]]:
    """The state with the class heads asked for, those left out, and those changed."""
    choice = class_rows(classes)
    if choice is None:
        return state, {}, {}
    state, said = choose_classes(state, choice)
    left_out = {name: why for name, why in said.items() if name not in state}
    return state, left_out, {name: why for name, why in said.items() if name in state}


def _cut_encoder_stage(plan: _Plan, target: State) -> None:
    """A model with fewer outputs in the encoder stage takes the first ones: row 0 is objectness."""
    for name, old in plan.names.items():
        ours, theirs = len(target[name]) if target[name].dim() else 0, plan.state[old]
        if ENCODER_STAGE.fullmatch(name) and ours < len(theirs):
            plan.state = {**plan.state, old: theirs[:ours]}
            rows = "row 0" if ours == 1 else f"the first {ours} rows"
            plan.classes[name] = f"{rows} of {len(theirs)} taken for the encoder stage"


def _bare(label: str, state: State) -> State:
    result: State = {}
    for name, tensor in state.items():
        short = bare_name(name) or name
        if short in result:
            raise UserError(
                f"{label} holds more than one {short}, as the checkpoint of a pretraining run "
                "does: load the export.safetensors beside it."
            )
        result[short] = tensor
    return result


def _check_depth(plan: _Plan, target: State) -> None:
    """All names of a ResNet-50 exist in a ResNet-101, so coverage of the file alone is no proof."""
    ours, theirs = _depth(target), _depth(plan.state)
    if ours and theirs and ours != theirs and plan.names:
        raise UserError(
            f"{plan.label} holds a ResNet-{theirs} but the model has a ResNet-{ours}; set the "
            f"model's depth to {theirs} or take another file."
        )


def _depth(names: Iterable[str]) -> int | None:
    bare = {b for n in names if (b := bare_name(n)) and _BLOCK.fullmatch(b)}
    bare = {name for name in bare if not name.endswith(COUNTER)}
    if not bare:
        return None
    depth = nearest_depth(bare)
    # anything far from all of them is a ResNet of somebody's own, judged by its names alone
    return depth if len(resnet_shapes(depth).keys() ^ bare) < 0.4 * len(bare) else None


def _drop_misshaped(plan: _Plan, target: State, allowed: Sequence[str]) -> None:
    refused = []
    for name, old in list(plan.names.items()):
        theirs, ours = tuple(plan.state[old].shape), tuple(target[name].shape)
        if theirs == ours:
            continue
        plan.misshaped[name] = plan.names.pop(name)
        plan.dropped[name] = f"{theirs} in the file, {ours} in the model"
        if not _matches(name, allowed):
            refused.append(f"{name} is {plan.dropped[name]}")
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise UserError(
            f"{plan.label} does not fit: {'; '.join(refused[:3])}{more}; make the model like the "
            f"file (class count, number of queries, width){_heads_hint(plan, target, refused[0])}, "
            "or start these tensors anew with train.init.allow_mismatch="
            f"[{','.join(_patterns(refused))}] (allow_mismatch in Python)."
        )


def _heads_hint(plan: _Plan, target: State, refused: str) -> str:
    """What else helps where class heads do not fit."""
    if "heads.classes." not in refused or not has_class_heads(target):
        return ""
    other = method_of(plan.state)
    if other is not None and method_of(target) not in (None, other):
        return (
            f", take the file's export instead (this is the checkpoint of {other}, whose class "
            "heads are others), set train.init.classes to drop (classes in Python)"
        )
    rows = len(plan.state[plan.misshaped[refused.partition(" is ")[0]]])
    choices = "coco80 or drop" if rows in (COCO_ROWS, COCO_ROWS + 1) else "drop"
    return f", set train.init.classes to {choices} (classes in Python)"


def _patterns(refused: Sequence[str]) -> list[str]:
    """What names them all: their parts of the model."""
    depth = {"query_source": 1}
    names = [text.partition(" is ")[0].split(".") for text in refused]
    parts = (".".join(name[: depth.get(name[0], 2)]) for name in names)
    return [f"{part}.*" for part in dict.fromkeys(parts)]


def _missing(
    plan: _Plan,
    view: PretextView,
    report: LoadReport,
    target: State,
    allowed: Sequence[str] | None,
    choice: ClassRows | None,
) -> list[str]:
    """Tensors of the model that the file should have."""
    if allowed is not None and not allowed:
        return list(report.new)
    whole = has_class_heads(target) and any(not n.startswith("backbone.") for n in report.matched)
    dropped = choice is not None and choice.rows is None
    classless = has_detector(plan.state) and not any(map(is_class_tensor, plan.state))
    if whole and classless:  # what a box pretext exports
        for name in filter(is_class_tensor, report.new):
            why = "by classes=drop" if dropped else "the file has no class heads"
            report.classes[name] = f"starts anew: {why}"
    new = [n for n in report.new if not (whole and (dropped or classless) and is_class_tensor(n))]
    new = view.asked(new, report)
    if allowed is not None:
        return [n for n in new if not _matches(n, allowed)]
    return [n for n in new if whole or ((b := bare_name(n)) and _BLOCK.fullmatch(b))]


def _check(report: LoadReport, min_coverage: float, missing: Sequence[str]) -> None:
    if not report.matched:
        raise UserError(
            f"Nothing of {report.source} fits the model: the file has {_first(report.unused)}, the "
            f"model {_first(report.new)}; is it the right file, or a layout we do not know?"
        )
    if missing:
        _check_stages(report, missing)
        heads = all(map(is_class_tensor, missing))
        hint = "set train.init.classes to drop (classes in Python)" if heads else ""
        raise UserError(
            f"{report.source} lacks {len(missing)} tensors of the model ({_first(missing)}); take "
            f"a complete file, or {hint or 'name them in allow_missing'} if they may start anew."
        )
    if report.source_share < min_coverage:
        raise UserError(
            f"Only {report.source_share:.0%} of {report.source} found a place in the model, less "
            f"than min_coverage={min_coverage:g} (unused: {_first(report.unused)}); is the model "
            "the one this file was made for?"
        )


def _check_stages(report: LoadReport, missing: Sequence[str]) -> None:
    """Tensors are missing since one has an encoder stage and the other has not: say that."""
    file = any(name.startswith(ENCODER) for name in report.unused)
    model = any(name.startswith(ENCODER) for name in missing)
    if file == model or any(name.startswith(ENCODER) for name in report.matched):
        return
    if file:
        said = "is of a two-stage detector and the model has one stage: take a two-stage config"
        example = "deformable_detr_r50_two_stage_50ep.py"
    else:
        said = "is of a one-stage detector and the model has two stages: take a one-stage config"
        example = "deformable_detr_r50_50ep.py"
    raise UserError(
        f"{report.source} {said}, as configs/finetune/coco/{example}, or name what may start anew "
        f"({_first(missing)}) in train.init.allow_missing (allow_missing in Python)."
    )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _first(names: Iterable[str], limit: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")
