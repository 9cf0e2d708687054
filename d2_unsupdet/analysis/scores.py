"""Names and numbers of scores: which deserve a column, what they are called, how many digits."""

import math
import statistics
from collections.abc import Iterable, Sequence

from d2_unsupdet.analysis.runs import Run, headline

_FIRST = ("AP", "AP50", "AP75", "mIoU")  # the columns of a task, when it has them
_PROPOSALS = ("AP", "AR@10", "AR@100")  # of boxes without classes, which are judged by recall
_NAMES = {
    "bbox": "Box",
    "segm": "Mask",
    "sem_seg": "Segmentation",
    "bbox_coco": "Box (COCO)",
    "bbox_agnostic": "Class-agnostic box",
}


def score_columns(runs: Iterable[Run]) -> list[str]:
    """The scores worth a column: up to three of each task, in the order of the papers' tables, and
    those that a paper prints."""
    runs = list(runs)
    names = dict.fromkeys(name for run in runs for name in headline(run.scores))
    printed = {name for run in runs for name in run.paper_values}
    tasks = dict.fromkeys(name.rsplit("/", 1)[0] for name in names)
    columns: list[str] = []
    for task in tasks:
        own = [name for name in names if name.rsplit("/", 1)[0] == task]
        first = _PROPOSALS if task.endswith("_agnostic") else _FIRST
        known = [f"{task}/{metric}" for metric in first if f"{task}/{metric}" in own]
        chosen = (known or own)[:3]
        columns += chosen + [name for name in own if name in printed and name not in chosen]
    return columns


def one_a_task(columns: Sequence[str]) -> list[str]:
    """The first column of each task."""
    return list({column.rsplit("/", 1)[0]: column for column in reversed(columns)}.values())[::-1]


def score_title(column: str) -> str:
    """ "bbox/AP50" -> "Box AP50"."""
    *parts, metric = column.split("/")
    return " ".join([*(_NAMES.get(part, part) for part in parts), metric])


def is_main_score(name: str) -> bool:
    """Whether a score deserves a chart of its own."""
    if name.endswith("_agnostic/AR@100"):
        return True
    last = name.rsplit("/", 1)[-1]
    return last in ("AP", "AP50", "mIoU") or name.split("/")[0] in ("knn", "linear", "svm")


def digits_of(values: Iterable[float]) -> int:
    """Digits after the point for a column: one, and more where that would round a score to 0.0."""
    smallest = min((abs(v) for v in values if v), default=1.0)
    return min(4, max(2, -math.floor(math.log10(smallest)))) if smallest < 0.95 else 1


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds; None for one run."""
    return statistics.stdev(values) if len(values) > 1 else None


def delta(difference: float, *, digits: int = 1, noise: float = 0.0) -> str:
    """A signed difference; sign and arrow carry it where colour does not.

    A difference that is within the spread of the seeds (`noise`) has no colour.
    """
    text = f"{abs(difference):.{digits}f}"
    if float(text) == 0:
        return f'<span class="delta dim">±{text}</span>'
    sign, arrow, way = ("+", "▲", "up") if difference > 0 else ("−", "▼", "down")
    if abs(difference) <= noise:
        return (
            f'<span class="delta dim" title="within the spread of the seeds">≈ {sign}{text}</span>'
        )
    return f'<span class="delta {way}">{arrow} {sign}{text}</span>'
