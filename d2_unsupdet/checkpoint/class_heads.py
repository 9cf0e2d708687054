"""Class heads for other classes: which rows of a file's heads a model of ours takes.

Official COCO heads have one row for each category id up to 90 (91 rows; with "no object" 92), of
which 80 are used. The head of the encoder stage is no classifier there: its row 0 is objectness.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from d2_unsupdet.checkpoint.layout import State
from d2_unsupdet.errors import UserError

_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO80 = tuple(i for i in range(1, 91) if i not in _UNUSED_IDS)
COCO_ROWS = 91
KEEP, DROP = "keep", "drop"

_CLASSES = re.compile(r"heads\.classes\.\d+\.(weight|bias)")
_LABELS = "query_source.denoising.labels.weight"
ENCODER_STAGE = re.compile(r"proposals\.classes\.(weight|bias)")


@dataclass(frozen=True)
class ClassRows:
    """What happens to class heads.

    Args:
        name: as the user wrote it.
        rows: of the file's head, one for each class of ours; None leaves the heads out.
        source: number of classes in the file, where the choice says it.
    """

    name: str
    rows: tuple[int, ...] | None
    source: int | None = None


def class_rows(text: str) -> ClassRows | None:
    """`keep` (None), `coco80`, `drop`, or a JSON file with a list of row numbers."""
    if text == KEEP:
        return None
    if text == DROP:
        return ClassRows(DROP, None)
    if text == "coco80":
        return ClassRows(text, COCO80, COCO_ROWS)
    path = Path(text)
    if not path.is_file():
        raise UserError(
            f"Unknown choice of classes {text!r}: write keep, coco80, drop or the path of a JSON "
            "file with a list of row numbers."
        )
    try:
        rows = json.loads(path.read_text())
    except ValueError:
        rows = None
    whole = isinstance(rows, list) and all(type(row) is int and row >= 0 for row in rows)
    if not whole or not rows:
        raise UserError(f"'{path}' must hold a list of row numbers such as [1, 2, 3].")
    return ClassRows(text, tuple(rows))


def has_class_heads(state: Mapping[str, Tensor]) -> bool:
    """Whether this is a DETR-style detector under our names."""
    return any(map(_CLASSES.fullmatch, state))


def has_detector(state: Iterable[str]) -> bool:
    """The same, also of one without class heads, as box pretexts export it."""
    return any(name.startswith("heads.boxes.") for name in state)


def is_class_tensor(name: str) -> bool:
    """Whether `drop` leaves it out: a class head, or the label table of DN."""
    return name == _LABELS or _CLASSES.fullmatch(name) is not None


def choose_classes(state: State, choice: ClassRows) -> tuple[State, dict[str, str]]:
    """The state with other class heads, and what happened: name -> sentence."""
    if not has_class_heads(state):
        if choice.rows is None and any(name.startswith("decoder.layers.") for name in state):
            return state, {}  # `drop` when it was converted
        raise UserError(f"classes={choice.name}: the file holds no class heads of a DETR.")
    changed, said = {}, {}
    background = _has_background(state, choice)
    for name, tensor in state.items():
        heads, table = bool(_CLASSES.fullmatch(name)), name == _LABELS
        if ENCODER_STAGE.fullmatch(name) and len(tensor) > 1:
            changed[name] = tensor[:1].clone()
            said[name] = f"row 0 of {len(tensor)}, the objectness, is kept"
        elif not (heads or table):
            changed[name] = tensor
        elif choice.rows is None:
            said[name] = "left out by classes=drop"
        else:
            rows = _rows(name, len(tensor), choice, with_last=table or background)
            changed[name] = tensor[list(rows)]
            said[name] = f"{len(rows)} of {len(tensor)} rows by classes={choice.name}"
    return changed, said


def _has_background(state: State, choice: ClassRows) -> bool:
    """DETR's softmax has one row more, the last; sigmoid heads have none."""
    rows = len(next(t for n, t in state.items() if _CLASSES.fullmatch(n)))
    if choice.source is not None:
        return rows == choice.source + 1
    several = "encoder.level_embed" in state or any("query_sine" in name for name in state)
    return not several


def _rows(name: str, count: int, choice: ClassRows, *, with_last: bool) -> tuple[int, ...]:
    classes = count - with_last
    assert choice.rows is not None
    if (choice.source or classes) != classes or max(choice.rows) >= classes:
        wanted = choice.source or max(choice.rows) + 1
        raise UserError(
            f"classes={choice.name} is for {wanted} classes, but {name} has {classes}; write keep, "
            "drop or a JSON file with the rows you want."
        )
    return (*choice.rows, count - 1) if with_last else choice.rows
