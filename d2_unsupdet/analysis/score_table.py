"""The table of scores: a row a setting with mean, spread and count of its seeds, the difference to
a baseline, and what a paper prints."""

import math
from collections.abc import Sequence
from html import escape

from d2_unsupdet.analysis import tables
from d2_unsupdet.analysis.runs import Run
from d2_unsupdet.analysis.scores import delta, digits_of, score_columns, score_title, spread
from d2_unsupdet.analysis.settings import Setting, seed_of, without_seed


def score_table(settings: Sequence[Setting], baseline: Setting | None) -> str:
    """Every setting that has scores; a script lets the reader choose another baseline."""
    scored = [s for s in settings if any(run.scores for run in s.runs)]
    if not scored:
        return '<p class="dim">No run has been evaluated yet.</p>'
    runs = [run for setting in scored for run in setting.runs]
    columns = score_columns(runs)
    digits = {c: digits_of([v for s in scored for v in s.scores(c)]) for c in columns}
    best = {c: max(_mean(s, c) for s in scored) for c in columns}
    head = ["Setting", *map(score_title, columns), "Weights", "Data", "Runs"]
    names = {run.path.resolve(): s.name for s in settings for run in s.runs}
    rows = []
    for setting in scored:
        cells = [
            _cell(
                setting,
                c,
                baseline,
                digits[c],
                is_best=len(scored) > 1 and _mean(setting, c) == best[c],
            )
            for c in columns
        ]
        first = setting.runs[0]
        weights = tables.initial_weights(first, names)
        weights = without_seed(weights) if len(setting.runs) > 1 else weights
        cells += [tables.text_cell(weights), tables.text_cell(tables.data_set(first))]
        cells += [_count(setting)]
        tag = '<span class="tag base">baseline</span>' if setting is baseline else ""
        remarks = filter(None, (paper_name(setting), _unfinished(setting)))
        more = tag + "".join(f'<small class="dim">{escape(text)}</small>' for text in remarks)
        rows.append(
            f"<tr>{tables.row_head(setting.name, setting.number, more)}{''.join(cells)}</tr>"
        )
    chosen = escape(baseline.name) if baseline else ""
    table = tables.sortable("Scores", head, rows, ("Weights", "Data"))
    return f'<div id="score-table" data-baseline="{chosen}">{table}</div>{_key(scored)}'


def runs_of(settings: Sequence[Setting]) -> list[Run]:
    """All runs, setting by setting."""
    return [run for setting in settings for run in setting.runs]


def paper_name(setting: Setting) -> str:
    """Which paper, table and row it is compared with."""
    for run in setting.runs:
        if run.paper_values:
            said = [run.paper.get(key) for key in ("paper", "table", "row")]
            return ", ".join(str(part) for part in said if part)
    return ""


def seed_table(settings: Sequence[Setting]) -> str:
    """Every run of the settings that have several, folded away."""
    several = [s for s in settings if len(s.runs) > 1 and any(run.scores for run in s.runs)]
    if not several:
        return ""
    runs = runs_of(several)
    columns = score_columns(runs)
    digits = {c: digits_of([run.scores[c] for run in runs if c in run.scores]) for c in columns}
    rows = []
    for setting in several:
        for run in setting.runs:
            seed = seed_of(run)
            cells = [tables.number_cell(seed, None if seed is None else str(seed))]
            for column in columns:
                value = run.scores.get(column)
                text = None if value is None else f"{value:.{digits[column]}f}"
                cells.append(tables.number_cell(value, text))
            rows.append(f"<tr>{tables.row_head(run.name, setting.number)}{''.join(cells)}</tr>")
    table = tables.sortable("Each seed", ["Run", "Seed", *map(score_title, columns)], rows, ())
    return f"<details><summary>Each of the {len(runs)} seeds</summary>{table}</details>"


def all_scores(settings: Sequence[Setting]) -> str:
    """Every score of every setting, classes and sizes of objects included, folded away."""
    scored = [s for s in settings if any(run.scores for run in s.runs)]
    names = sorted({name for run in runs_of(scored) for name in run.scores})
    if not names:
        return ""
    head = "".join(f'<th scope="col">{tables.breakable(s.name)}</th>' for s in scored)
    rows = []
    for name in names:
        digits = max(2, digits_of([v for s in scored for v in s.scores(name)]))
        means = [setting.mean(name) for setting in scored]
        cells = "".join("<td>–</td>" if m is None else f"<td>{m:.{digits}f}</td>" for m in means)
        rows.append(f'<tr><th scope="row" class="text">{escape(name)}</th>{cells}</tr>')
    return (
        f"<details><summary>All {len(names)} scores, classes included</summary>"
        '<div class="table" tabindex="0" role="region" aria-label="All scores">'
        '<table class="plain"><thead><tr><th scope="col" class="text">Score</th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _mean(setting: Setting, column: str) -> float:
    value = setting.mean(column)
    return -math.inf if value is None else value


def _cell(
    setting: Setting, column: str, baseline: Setting | None, digits: int, *, is_best: bool
) -> str:
    mean, noise = setting.mean(column), spread(setting.scores(column))
    if mean is None:
        return '<td data-value="">–</td>'
    parts = [f"{mean:.{digits}f}"]
    if noise is not None:
        values = setting.scores(column)
        told = f"{len(values)} runs, {min(values):.{digits}f} to {max(values):.{digits}f}"
        parts.append(f' <span class="spread" title="{told}">± {noise:.{digits}f}</span>')
    reference = baseline.mean(column) if baseline and baseline is not setting else None
    if baseline is not None and reference is not None:
        both = max(noise or 0.0, spread(baseline.scores(column)) or 0.0)
        parts.append(delta(mean - reference, digits=digits, noise=both))
    printed = setting.paper(column)
    if printed is not None:
        parts.append(f'<span class="paper">paper {printed:.{digits}f}</span>')
    kind = ' class="best"' if is_best else ""
    known = f'data-value="{mean!r}" data-noise="{noise or 0.0!r}" data-digits="{digits}"'
    return f"<td{kind} {known}>{''.join(parts)}</td>"


def _count(setting: Setting) -> str:
    return tables.number_cell(len(setting.counted), str(len(setting.counted)))


def _unfinished(setting: Setting) -> str:
    """A score of half a run is said to be one, and does not count beside whole ones."""
    open_ones = [run for run in setting.runs if run.state != "finished" and run.scores]
    if not open_ones:
        return ""
    if open_ones[0] not in setting.counted:
        return f"without {', '.join(run.name for run in open_ones)}: not finished"
    return f"not finished: step {(open_ones[0].last_iteration or 0) + 1:,}"


def _key(scored: Sequence[Setting]) -> str:
    """How the cells are read, as far as there is something to read."""
    sentences = ["Bold: the highest of its column."] if len(scored) > 1 else []
    if any(len(setting.runs) > 1 for setting in scored):
        sentences.append(
            "Of several runs of one setting, which differ by seed only: mean ± standard deviation. "
            "A difference within the larger of both spreads has no colour."
        )
    if any(run.paper_values for setting in scored for run in setting.runs):
        sentences.append("“paper”: the number that the paper prints, at its full size and length.")
    return f'<p class="dim key-text">{" ".join(sentences)}</p>' if sentences else ""
