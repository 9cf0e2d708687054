"""Names and numbers of scores: which deserve a column, what they are called, how many digits."""

import math
import statistics
from collections.abc import Iterable, Sequence

from d2_unsupdet.analysis.runs import Run
from d2_unsupdet.analysis.score_names import headline, split_score

_FIRST = ("AP", "AP50", "AP75", "mIoU")  # the columns of a task, when it has them
_PROPOSALS = ("AP", "AR@10", "AR@100")  # of boxes without classes, which are judged by recall
_NAMES = {
    "bbox": "Box",
    "segm": "Mask",
    "sem_seg": "Segmentation",
    "bbox_coco": "Box (COCO)",
    "bbox_agnostic": "Class-agnostic box",
}
SINGLE = "of a single run: how much seeds differ is unknown"


def score_columns(runs: Iterable[Run]) -> list[str]:
    """The scores worth a column: up to three of each task, in the order of the papers' tables, and
    those that a paper prints."""
    runs = list(runs)
    names = dict.fromkeys(name for run in runs for name in headline(run.scores))
    printed = {name for run in runs for name in run.paper_values}
    tasks: dict[str, list[str]] = {}
    for name in names:
        tasks.setdefault(split_score(name)[0], []).append(name)
    columns: list[str] = []
    for task, own in tasks.items():
        first = _PROPOSALS if task.endswith("_agnostic") else _FIRST
        known = [f"{task}/{metric}" for metric in first if f"{task}/{metric}" in own]
        chosen = (known or own)[:3]
        columns += chosen + [name for name in own if name in printed and name not in chosen]
    return columns


def one_a_task(columns: Sequence[str]) -> list[str]:
    """The first column of each task."""
    return list({split_score(column)[0]: column for column in reversed(columns)}.values())[::-1]


def score_title(column: str, metric: str = "") -> str:
    """ "bbox/AP50" -> "Box AP50"; `metric` names whose it is, where `bbox` is not COCO's."""
    task, last = split_score(column)
    parts = task.split("/") if task else []
    own = [f"Box ({metric})" if metric and p == "bbox" else _NAMES.get(p, p) for p in parts]
    return " ".join([*own, last])


def is_main_score(name: str) -> bool:
    """Whether a score deserves a chart of its own."""
    if name.endswith("_agnostic/AR@100"):
        return True
    return split_score(name)[1] in ("AP", "AP50", "mIoU") or name.split("/")[0] in (
        "knn",
        "linear",
        "svm",
    )


def digits_of(values: Iterable[float]) -> int:
    """Digits after the point for a column: one, and more where that would round a score to 0.0."""
    sizes = [abs(value) for value in values if value]
    smallest, largest = min(sizes, default=1.0), max(sizes, default=1.0)
    if smallest >= 0.95:
        return 1
    most = 2 if largest >= 10 else 4  # 40.1234 would not be read
    return min(most, max(2, -math.floor(math.log10(smallest))))


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds; None for one run."""
    return statistics.stdev(values) if len(values) > 1 else None


def noise_of(values: Sequence[float], others: Sequence[float]) -> float | None:
    """The larger spread of two settings; None while one of them has a single run."""
    own, its = spread(values), spread(others)
    return None if own is None or its is None else max(own, its)


def delta(difference: float, *, digits: int = 1, noise: float | None = None) -> str:
    """A signed difference; sign and arrow carry it where colour does not.

    A difference that is within the spread of the seeds (`noise`), or whose spread is unknown since
    there is one run only, has neither colour nor arrow.
    """
    text = f"{abs(difference):.{digits}f}"
    if float(text) == 0:
        return f'<span class="delta dim">±{text}</span>'
    sign, arrow, way = ("+", "▲", "up") if difference > 0 else ("−", "▼", "down")
    if noise is None:
        return f'<span class="delta dim" title="{SINGLE}">{sign}{text}</span>'
    if abs(difference) <= noise:
        return (
            f'<span class="delta dim" title="within the spread of the seeds">≈ {sign}{text}</span>'
        )
    return f'<span class="delta {way}">{arrow} {sign}{text}</span>'
