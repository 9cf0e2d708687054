"""The report's cards and tables: scores with differences to a baseline, and what each run was."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from d2_unsupdet.analysis.curves import COLORS, dash
from d2_unsupdet.analysis.runs import Run, flatten, headline

_FIRST = ("AP", "AP50", "AP75", "mIoU")  # the columns of a task, when it has them
_PROPOSALS = ("AP", "AR@10", "AR@100")  # of boxes without classes, which are judged by recall

_TEXTS = ("Method", "Weights", "Data")  # columns of words, not numbers


def score_columns(runs: Iterable[Run]) -> list[str]:
    """The scores worth a column: up to three of each task, in the order of the papers' tables."""
    names = dict.fromkeys(name for run in runs for name in headline(run.scores))
    tasks = dict.fromkeys(name.rsplit("/", 1)[0] for name in names)
    columns: list[str] = []
    for task in tasks:
        own = [name for name in names if name.rsplit("/", 1)[0] == task]
        first = _PROPOSALS if task.endswith("_agnostic") else _FIRST
        known = [f"{task}/{metric}" for metric in first if f"{task}/{metric}" in own]
        columns += (known or own)[:3]
    return columns


def cards(runs: Sequence[Run], baseline: Run | None) -> str:
    """A card for the best run of each task, and one for each pretraining."""
    parts = []
    seen: set[str] = set()
    for column in score_columns(runs):
        task = column.rsplit("/", 1)[0]
        if task in seen:
            continue
        seen.add(task)
        rivals = [run for run in runs if column in run.scores]
        best = max(rivals, key=lambda run: run.scores[column])
        against = ""
        if baseline is not None and column in baseline.scores and best is not baseline:
            difference = delta(best.scores[column], baseline.scores[column])
            against = f"<p>{difference} against {escape(baseline.name)}</p>"
        title = escape(score_title(column))
        label = f"Best {title}" if len(rivals) > 1 else title
        parts.append(_card(label, f"{best.scores[column]:.1f}", escape(best.name), against))
    for run in runs:
        if run.kind == "pretrain":
            parts.append(_pretrain_card(run))
        share = coverage(run)
        if share is not None:
            parts.append(
                _card(
                    "Weights loaded",
                    f"{share:.1%}",
                    f"of the file that {escape(run.name)} began with",
                )
            )
    return f'<div class="cards">{"".join(parts)}</div>' if parts else ""


def score_table(runs: Sequence[Run], baseline: Run | None, numbers: dict[str, int]) -> str:
    """Every run that has scores, with differences to the baseline."""
    scored = [run for run in runs if run.scores]
    if not scored:
        return '<p class="dim">No run has been evaluated yet.</p>'
    columns = score_columns(scored)
    best = {c: max(run.scores.get(c, -math.inf) for run in scored) for c in columns}
    head = ["Run", *map(score_title, columns), "Weights", "Data", "Iterations", "Time"]
    rows = []
    for run in scored:
        cells = []
        for column in columns:
            reference = baseline.scores.get(column) if baseline and baseline is not run else None
            cells.append(_score(run.scores.get(column), reference, best[column], len(scored)))
        cells += [_text(initial_weights(run, runs)), _text(data_set(run))]
        cells += [_iterations(run), _time(run)]
        rows.append(_row(run, cells, numbers, run is baseline))
    return _table("Scores", head, rows)


def pretrain_table(runs: Sequence[Run], numbers: dict[str, int]) -> str:
    """Every run without scores: how far it came and what it left."""
    others = [run for run in runs if not run.scores]
    if not others:
        return ""
    head = ["Run", "Method", "Data", "Iterations", "Time", "Loss at the start", "Loss at the end"]
    rows = []
    for run in others:
        losses = run.curves.get("total_loss", [])
        ends = [losses[0][1], losses[-1][1]] if losses else [None, None]
        cells = [_text(method(run)), _text(data_set(run)), _iterations(run), _time(run)]
        cells += [_score(value, None, None, 1, digits=3) for value in ends]
        rows.append(_row(run, cells, numbers, False))
    return _table("Runs without scores", head, rows)


def all_scores(runs: Sequence[Run]) -> str:
    """Every score of every run, classes included, folded away."""
    names = sorted({name for run in runs for name in run.scores})
    if not names:
        return ""
    scored = [run for run in runs if run.scores]
    head = "".join(f'<th scope="col">{escape(run.name)}</th>' for run in scored)
    rows = []
    for name in names:
        cells = "".join(
            f"<td>{run.scores[name]:.2f}</td>" if name in run.scores else "<td>–</td>"
            for run in scored
        )
        rows.append(f'<tr><th scope="row" class="text">{escape(name)}</th>{cells}</tr>')
    return (
        f"<details><summary>All {len(names)} scores, classes included</summary>"
        '<div class="table" tabindex="0" role="region" aria-label="All scores">'
        '<table class="plain"><thead><tr><th scope="col" class="text">Score</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def definitions(entries: dict[str, Any]) -> str:
    """Names and values as a list; nested ones joined with dots."""
    items = "".join(
        f"<dt>{escape(str(k))}</dt><dd>{escape(_shown(v))}</dd>"
        for k, v in flatten(entries, separator=".").items()
    )
    return f"<dl>{items}</dl>" if items else ""


def delta(value: float, reference: float) -> str:
    """A signed difference; sign and arrow carry it where colour does not."""
    difference = value - reference
    if abs(difference) < 0.05:
        return '<span class="delta dim">±0.0</span>'
    way, arrow = ("up", "▲") if difference > 0 else ("down", "▼")
    return f'<span class="delta {way}">{arrow} {difference:+.1f}</span>'


def score_title(column: str) -> str:
    """ "bbox/AP50" -> "Box AP50"."""
    *parts, metric = column.split("/")
    names = {"bbox": "Box", "segm": "Mask", "sem_seg": "Segmentation", "bbox_coco": "Box (COCO)"}
    names["bbox_agnostic"] = "Class-agnostic box"
    return " ".join([*(names.get(part, part) for part in parts), metric])


def method(run: Run) -> str:
    """What was run, as the run says it."""
    return str(run.summary.get("method") or run.summary.get("model") or "–")


def data_set(run: Run) -> str:
    """The data set's name, or names."""
    value = run.summary.get("data") or "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def initial_weights(run: Run, runs: Sequence[Run]) -> str:
    """Where the weights came from: the run that made them if it is one of `runs`, else the file."""
    named = run.summary.get("init_checkpoint")
    if not named:
        return "random" if run.summary else "–"
    path = Path(str(named))
    for other in runs:
        if other is not run and path.resolve().is_relative_to(other.path.resolve()):
            return other.name
    return "/".join(path.parts[-2:])


def coverage(run: Run) -> float | None:
    """The share of the initial weights' file that the model took, if the run says so."""
    value = run.summary.get("init_coverage")
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def iterations(run: Run) -> str:
    """How many iterations the log holds."""
    last = run.last_iteration
    return "–" if last is None else str(last + 1)


def duration(seconds: float) -> str:
    """42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _pretrain_card(run: Run) -> str:
    losses = run.curves.get("total_loss", [])
    big = f"{losses[0][1]:.3g} → {losses[-1][1]:.3g}" if losses else "–"
    seconds = run.summary.get("seconds")
    time = f", {duration(seconds)}" if isinstance(seconds, int | float) else ""
    name = run.name if method(run) == "–" else method(run)
    details = f"{escape(name)}, {iterations(run)} iterations{time}"
    return _card("Pretraining loss", big, details)


def _card(title: str, big: str, text: str, more: str = "") -> str:
    return (
        f'<div class="card"><h3>{title}</h3><div class="big">{big}</div><p>{text}</p>{more}</div>'
    )


def _table(label: str, head: Sequence[str], rows: Sequence[str]) -> str:
    cells = ""
    for name in head:
        kind = ' class="text"' if name in _TEXTS else ""
        cells += f'<th scope="col"{kind}>{escape(name)}</th>'
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="sortable"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(run: Run, cells: Sequence[str], numbers: dict[str, int], is_baseline: bool) -> str:
    tag = ' <span class="tag">baseline</span>' if is_baseline else ""
    number = numbers[run.name]
    pattern = f' stroke-dasharray="{dash(number)}"' if dash(number) else ""
    key = (
        '<svg class="key" viewBox="0 0 26 8" aria-hidden="true"><line class="line '
        f's{number % COLORS}" x1="1" x2="25" y1="4" y2="4"{pattern}/></svg>'
    )
    head = f'<th scope="row" data-value="{escape(run.name)}">{key} {breakable(run.name)}{tag}</th>'
    return f"<tr>{head}{''.join(cells)}</tr>"


def _text(value: str) -> str:
    return f'<td class="text" data-value="{escape(value)}">{breakable(value)}</td>'


def breakable(text: str) -> str:
    """Escaped, with the places where a long name of files and words may break."""
    if len(text) <= 12:
        return escape(text)
    return escape(text).replace("_", "_<wbr>").replace("/", "/<wbr>")


def _iterations(run: Run) -> str:
    last = run.last_iteration
    return (
        '<td data-value="">–</td>' if last is None else f'<td data-value="{last}">{last + 1}</td>'
    )


def _time(run: Run) -> str:
    seconds = run.summary.get("seconds")
    if not isinstance(seconds, int | float):
        return '<td data-value="">–</td>'
    return f'<td data-value="{seconds}">{duration(seconds)}</td>'


def _score(
    value: float | None, reference: float | None, best: float | None, runs: int, digits: int = 1
) -> str:
    if value is None:
        return '<td data-value="">–</td>'
    difference = f" {delta(value, reference)}" if reference is not None else ""
    kind = ' class="best"' if runs > 1 and value == best else ""
    return f'<td{kind} data-value="{value!r}">{value:.{digits}f}{difference}</td>'


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "; ".join(map(_shown, value)) or "none"
    return "–" if value is None else str(value)
