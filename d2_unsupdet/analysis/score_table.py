"""The table of scores: a row a setting with mean, spread and count of its seeds, the difference to
a baseline, and what a paper prints."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from d2_unsupdet.analysis import tables
from d2_unsupdet.analysis.page_names import breakable, short_names
from d2_unsupdet.analysis.runs import Run
from d2_unsupdet.analysis.score_names import is_of_one_class
from d2_unsupdet.analysis.scored_on import ScoredOn, by_test_set, in_short, score_digits
from d2_unsupdet.analysis.scores import delta, noise_of, score_columns, score_title, spread
from d2_unsupdet.analysis.settings import Setting, seed_of, without_seed


def score_table(settings: Sequence[Setting], baseline: Setting | None) -> str:
    """A table a test set; a script lets the reader choose another baseline in each."""
    groups = by_test_set(settings)
    if not groups:
        return '<p class="dim">No run has been evaluated yet.</p>'
    names = {run.path.resolve(): s.name for s in settings for run in s.runs}
    parts = []
    for number, (how, own) in enumerate(groups.items()):
        if how.is_known or len(groups) > 1:
            parts.append(f"<h3>On {breakable(how.label)}</h3>")
        base = baseline if baseline in own else None
        anchor = f"score-table-{number + 1}" if number else "score-table"
        parts.append(
            f'<div class="score-table" id="{anchor}" data-baseline="'
            f'{escape(base.name) if base else ""}">{_table(how, own, base, names)}</div>'
        )
    scored = [setting for own in groups.values() for setting in own]
    return "".join(parts) + _key(scored, several=max(map(len, groups.values())) > 1)


def _table(
    how: ScoredOn, own: Sequence[Setting], baseline: Setting | None, names: Mapping[Path, str]
) -> str:
    columns, digits = score_columns(runs_of(own)), score_digits(own)
    best = {c: max(_mean(s, c) for s in own) for c in columns}
    trained_on = short_names(tables.data_set(setting.runs[0]) for setting in own)
    rows = []
    for setting in own:
        cells = [
            _cell(
                setting, c, baseline, digits, is_best=len(own) > 1 and _mean(setting, c) == best[c]
            )
            for c in columns
        ]
        first = setting.runs[0]
        weights = tables.initial_weights(first, names)
        weights = without_seed(weights) if len(setting.runs) > 1 else weights
        cells += [tables.text_cell(weights), _count(setting)]
        tag = ' <span class="tag base">baseline</span>' if setting is baseline else ""
        data = trained_on[tables.data_set(first)]
        trained = "" if data == "–" else f"trained on {data}"
        remarks = filter(None, (trained, paper_name(setting), _unfinished(setting)))
        more = tag + "".join(f'<small class="dim">{breakable(text)}</small>' for text in remarks)
        head = tables.row_head(setting.name, setting.number, more)
        rows.append(f"<tr>{head}{''.join(cells)}</tr>")
    titles = [score_title(column, how.metric) for column in columns]
    label = f"Scores on {how.label}" if how.is_known else "Scores"
    return tables.sortable(label, ["Setting", *titles, "Weights", "Runs"], rows, ("Weights",))


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
    parts = []
    groups = by_test_set(settings)
    short = in_short(groups)
    for how, own in groups.items():
        several = [setting for setting in own if len(setting.runs) > 1]
        runs = runs_of(several)
        if not several:
            continue
        columns, digits = score_columns(runs), score_digits(own)
        rows = []
        for setting in several:
            for run in setting.runs:
                seed = seed_of(run)
                cells = [tables.number_cell(seed, None if seed is None else str(seed))]
                for column in columns:
                    value = run.scores.get(column)
                    text = None if value is None else f"{value:.{digits}f}"
                    cells.append(tables.number_cell(value, text))
                rows.append(f"<tr>{tables.row_head(run.name, setting.number)}{''.join(cells)}</tr>")
        head = ["Run", "Seed", *(score_title(column, how.metric) for column in columns)]
        where = f" on {short[how].label}" if how.is_known else ""
        parts.append(
            f"<details><summary>Each of the {len(runs)} seeds{escape(where)}</summary>"
            f"{tables.sortable(f'Each seed{where}', head, rows, ())}</details>"
        )
    return "".join(parts)


def all_scores(settings: Sequence[Setting]) -> str:
    """Every score of every setting, classes and sizes of objects included, folded away."""
    groups = by_test_set(settings)
    short = in_short(groups)
    return "".join(_all_of(short[how], own) for how, own in groups.items())


def _all_of(how: ScoredOn, own: Sequence[Setting]) -> str:
    names = sorted({name for run in runs_of(own) for name in run.scores})
    head = "".join(f'<th scope="col">{breakable(s.name)}</th>' for s in own)
    rows, digits = [], score_digits(own)
    for name in names:
        means = [setting.mean(name) for setting in own]
        cells = "".join("<td>–</td>" if m is None else f"<td>{m:.{digits}f}</td>" for m in means)
        rows.append(f'<tr><th scope="row" class="text">{escape(name)}</th>{cells}</tr>')
    where = f" on {how.label}" if how.is_known else ""
    classes = ", classes included," if any(map(is_of_one_class, names)) else ""
    said = f"All {len(names)} scores{classes}{where}".removesuffix(",")
    return (
        f"<details><summary>{escape(said)}</summary>"
        f'<div class="table" tabindex="0" role="region" aria-label="All scores{escape(where)}">'
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
        both = noise_of(setting.scores(column), baseline.scores(column))
        parts.append(delta(mean - reference, digits=digits, noise=both))
    printed = setting.paper(column)
    if printed is not None:
        parts.append(f'<span class="paper">ref. {printed:.{digits}f}</span>')
    kind = ' class="best"' if is_best else ""
    known = f'data-value="{mean!r}" data-noise="{"" if noise is None else noise}"'
    known += f' data-digits="{digits}"'
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


def _key(scored: Sequence[Setting], *, several: bool) -> str:
    """How the cells are read, as far as there is something to read."""
    sentences = ["Bold: the highest of its column."] if several else []
    if any(len(setting.runs) > 1 for setting in scored):
        sentences.append(
            "Of several runs of one setting, which differ by seed only: mean ± standard deviation. "
            "A difference within the larger of both spreads has no colour."
        )
    if several and any(len(setting.counted) == 1 for setting in scored):
        sentences.append(
            "A difference to or of a single run has no colour: how much seeds alone make is "
            "unknown."
        )
    if any(run.paper_values for setting in scored for run in setting.runs):
        sentences.append("“ref.”: the number of the paper or run that is named under the setting.")
    return f'<p class="dim key-text">{" ".join(sentences)}</p>' if sentences else ""
