"""One row for each array that is compared, with a tolerance that depends on what it holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# |a - b| <= absolute + relative * |b|
TOLERANCES = {
    "logits": (1e-4, 1e-4),
    "boxes": (1e-5, 1e-4),
    "pixels": (1e-5, 0.0),  # absolute: of the image's side, which divides both
    "scores": (1e-5, 1e-4),
    "loss": (1e-6, 1e-4),
    "metric": (1e-3, 1e-4),
    "gradient": (1e-6, 1e-3),  # of an operator, element by element
    "grad_norm": (1e-5, 1e-3),
    "features": (1e-4, 1e-3),  # intermediate tensors, unscaled
    "values": (1e-5, 1e-4),
    "exact": (0.0, 0.0),
}


@dataclass(frozen=True)
class Row:
    """The outcome for one array.

    Args:
        name: in the golden file.
        kind: a key of TOLERANCES.
        absolute: largest |a - b|.
        relative: largest |a - b| / |b| where b is not tiny.
        excess: largest |a - b| as a share of what is allowed; above 1 fails.
    """

    name: str
    kind: str
    absolute: float
    relative: float
    excess: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.excess <= 1

    def __str__(self) -> str:
        mark = "ok  " if self.passed else "FAIL"
        absolute, relative = TOLERANCES[self.kind]
        return (
            f"{mark} {self.name:44} {self.kind:9} {self.absolute:9.2e} {self.relative:9.2e}  "
            f"{absolute:g} + {relative:g}|b|{'  ' + self.note if self.note else ''}"
        )


@dataclass(frozen=True)
class Aside:
    """An array that says nothing about ours, and why; it is listed and not counted."""

    name: str
    why: str


def compare(
    name: str, kind: str, ours: Tensor, golden: Tensor, *, noise: Tensor | float = 0
) -> Row:
    """Element by element; another shape fails, and so does another infinity.

    Args:
        noise: more that may be absolute, where rounding of larger numbers is left.
    """
    if ours.shape != golden.shape:
        note = f"shape {tuple(ours.shape)} instead of {tuple(golden.shape)}"
        return Row(name, kind, float("inf"), float("inf"), float("inf"), note)
    a, b = ours.detach().double(), golden.double()
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"))
    if not apart.numel():
        return Row(name, kind, 0.0, 0.0, 0.0)
    absolute, relative = TOLERANCES[kind]
    allowed = absolute + noise + relative * b.abs()
    excess = torch.where(apart == 0, 0.0, apart / allowed)  # x / 0 is infinite
    share = torch.where(b.abs() > 1e-6, apart / b.abs(), 0.0)
    return Row(name, kind, float(apart.max()), float(share.max()), float(excess.max()))


def failed(name: str, kind: str, note: str) -> Row:
    """A row for what could not be compared at all."""
    return Row(name, kind, float("inf"), float("inf"), float("inf"), note)


def pairs(name: str, ours: tuple[Tensor, Tensor], golden: tuple[Tensor, Tensor]) -> Row:
    """Assignments as sets of (query, target)."""
    a = sorted(zip(ours[0].tolist(), ours[1].tolist(), strict=True))
    b = sorted(zip(golden[0].tolist(), golden[1].tolist(), strict=True))
    wrong = len(set(a) ^ set(b)) or float(len(a) != len(b))
    more, less = sorted(set(a) - set(b))[:3], sorted(set(b) - set(a))[:3]
    note = f"{more} instead of {less}" if wrong else ""
    return Row(name, "exact", float(wrong), 0.0, float("inf") if wrong else 0.0, note)


def align_detections(
    ours: Sequence[Tensor], golden: Sequence[Tensor], tie: float = 2e-6
) -> list[Tensor]:
    """Scores, labels and boxes of one image in the golden order; only near ties change place.

    Args:
        tie: twice the distance at which two scores count as equal, for rounding on either side.
    """
    scores, labels, boxes = ours
    if len(scores) != len(golden[0]):
        return list(ours)
    free = list(range(len(scores)))
    order = []
    for label, box in zip(golden[1], golden[2], strict=True):
        near = [j for j in free if abs(float(scores[j] - scores[free[0]])) <= tie]
        best = min(
            near, key=lambda j: (int(labels[j]) != int(label), float((boxes[j] - box).abs().sum()))
        )
        order.append(best)
        free.remove(best)
    return [scores[order], labels[order], boxes[order]]
