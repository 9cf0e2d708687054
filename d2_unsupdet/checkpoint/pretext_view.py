"""A box pretext holds a whole detector behind a prefix: seen without it, it loads like a detector.

The same for files: what such a run saved starts a pretext again, or the detector alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from d2_unsupdet.checkpoint.class_heads import has_class_heads
from d2_unsupdet.checkpoint.convert import KEEP, OBJECT, PRETEXT, convert
from d2_unsupdet.checkpoint.layout import Format, State
from d2_unsupdet.checkpoint.pretext_names import WRAPPER, is_own, is_wrapped, unwrapped
from d2_unsupdet.checkpoint.report import LoadReport
from d2_unsupdet.errors import UserError

TEACHER = "teacher."
_LAST_NORM = "encoder.norm.weight"  # of detectors with norms before each part


@dataclass(frozen=True)
class PretextView:
    """Names of a model without the prefix of its detector.

    Args:
        names: as seen -> in the model.
        wrapped: there is such a prefix.
    """

    names: dict[str, str]
    wrapped: bool

    @classmethod
    def of(cls, names: Iterable[str]) -> "PretextView":
        names = list(names)
        wrapped = is_wrapped(names)
        seen = {(name.removeprefix(WRAPPER) if wrapped else name): name for name in names}
        return cls(seen, wrapped)

    def patterns(self, given: Sequence[str]) -> list[str]:
        """Of names, which a user may write with the prefix or without it."""
        return [pattern.removeprefix(WRAPPER) if self.wrapped else pattern for pattern in given]

    def opened(self, state: State, target: Mapping[str, Tensor]) -> tuple[State, dict[str, str]]:
        """A file's state without that prefix; a bare detector takes only what it finetunes."""
        if not is_wrapped(state):
            return state, {}
        if self.wrapped:
            copied = {n: "copied from the backbone" for n in state if n.startswith(TEACHER)}
            kept = {n.removeprefix(WRAPPER): t for n, t in state.items() if n not in copied}
            return kept, copied
        if not has_class_heads(target):
            raise UserError(
                "The file is the checkpoint of a run that pretrains a whole detector, and the "
                "model is none: load the export.safetensors beside it."
            )
        return unwrapped(state)

    def converted(
        self, state: State, layout: Format, target: Mapping[str, Tensor]
    ) -> tuple[State, dict[str, str], dict[str, str]]:
        """An official pretext's file: the state, what was dropped, what became of class heads."""
        found, report = convert(state, layout, PRETEXT, classes=KEEP)
        if _class_rows(found, WRAPPER) != _class_rows(target, ""):
            found, report = convert(state, layout, PRETEXT, classes=OBJECT)
        said = {name.removeprefix(WRAPPER): what for name, what in report.classes.items()}
        return {n.removeprefix(WRAPPER): t for n, t in found.items()}, report.dropped, said

    def asked(self, missing: list[str], report: LoadReport) -> list[str]:
        """Without a pretext's heads, where the file holds none of them."""
        if not self.wrapped or any(map(is_own, report.matched)):
            return missing
        return [name for name in missing if not is_own(name)]

    def renamed(self, report: LoadReport) -> LoadReport:
        """The report under the names that the model has."""
        if not self.wrapped:
            return report
        names = self.names
        return replace(
            report,
            matched={names[n]: size for n, size in report.matched.items()},
            new={names[n]: size for n, size in report.new.items()},
            classes={names.get(n, n): what for n, what in report.classes.items()},
        )


def check_norms(label: str, state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Norms before or behind the parts of a layer: the names differ by a norm, the sense by all."""
    if not (has_class_heads(target) and any(n.startswith("encoder.layers.") for n in state)):
        return
    before, ours = _LAST_NORM in state, _LAST_NORM in target
    if before != ours:
        words = ("before", "behind") if before else ("behind", "before")
        raise UserError(
            f"{label} is of a detector with norms {words[0]} the parts of a layer, and the model "
            f"has them {words[1]}: set model.encoder.pre_norm to {before}, or in a pretext "
            "model.detector.encoder.pre_norm."
        )


def _class_rows(state: Mapping[str, Tensor], prefix: str) -> int:
    first = state.get(f"{prefix}heads.classes.0.weight")
    return 0 if first is None else len(first)
