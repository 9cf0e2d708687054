"""The report's first tab: the scores at a glance, and what each run is, how far, with what loss."""

import datetime
import time
from collections.abc import Sequence
from html import escape

from d2_unsupdet.analysis import tables
from d2_unsupdet.analysis.page_names import breakable, short_names
from d2_unsupdet.analysis.runs import Run
from d2_unsupdet.analysis.score_table import runs_of
from d2_unsupdet.analysis.scored_on import by_test_set, in_short, score_digits
from d2_unsupdet.analysis.scores import (
    delta,
    noise_of,
    one_a_task,
    score_columns,
    score_title,
    spread,
)
from d2_unsupdet.analysis.settings import Setting

_STATES = {
    "finished": "finished",
    "running": "running",
    "silent": "running or stopped",
    "stopped": "not finished",
    "empty": "nothing logged",
}


def cards(settings: Sequence[Setting], baseline: Setting | None) -> str:
    """A card for the best setting of each task and test set; for a lone pretraining its loss."""
    runs = runs_of(settings)
    parts = []
    groups = by_test_set(settings)
    short = in_short(groups)
    for how, own in groups.items():
        digits = score_digits(own)
        for column in one_a_task(score_columns(runs_of(own))):
            rivals = [s for s in own if s.scores(column)]
            best = max(rivals, key=lambda s: s.mean(column) or 0.0)
            title = score_title(column, how.metric)
            title = f"Best {title[0].lower()}{title[1:]}" if len(rivals) > 1 else title
            title += f" on {short[how].place}" if len(groups) > 1 else ""
            noise = spread(best.scores(column))
            value = f"{best.mean(column):.{digits}f}"
            if noise is not None:
                value += f' <small class="spread">± {noise:.{digits}f}</small>'
            against = _against(best, baseline if baseline in own else None, column, digits)
            parts.append(_card(title, value, _of(best, column), against))
    parts += _single(runs[0]) if len(runs) == 1 else [_states(runs)]
    return f'<div class="cards">{"".join(parts)}</div>' if parts else ""


def run_table(settings: Sequence[Setting]) -> str:
    """Every run: what, on what, from what, how far, and its loss."""
    runs = runs_of(settings)
    names = {run.path.resolve(): run.name for run in runs}
    anchors = {id(run): f"run-{i + 1}" for i, run in enumerate(runs)}
    data = short_names(tables.data_set(run) for run in runs)
    head = ["Run", "Method", "Data", "Weights", "Steps", "Time", "First loss", "Last loss"]
    rows = []
    for setting in settings:
        for run in setting.runs:
            losses = run.curves.get("total_loss", [])
            ends = [losses[0][1], losses[-1][1]] if losses else [None, None]
            told = tables.data_set(run)
            cells = [tables.text_cell(tables.method(run)), tables.text_cell(data[told], told)]
            cells += [tables.text_cell(tables.initial_weights(run, names)), _steps(run), _time(run)]
            cells += [tables.number_cell(value) for value in ends]
            state = "" if run.state == "finished" else progress(run)
            more = f'<small class="state {run.state}">{escape(state)}</small>' if state else ""
            first = tables.row_head(run.name, setting.number, more, link=anchors[id(run)])
            rows.append(f"<tr>{first}{''.join(cells)}</tr>")
    table = tables.sortable("Runs", head, rows, ("Method", "Data", "Weights"))
    return f"<h3>{'Run' if len(runs) == 1 else 'Runs'}</h3>{table}"


def progress(run: Run) -> str:
    """ "running, 1,200 of 24,000 steps, 1 h 20 min left"."""
    parts = [_STATES[run.state]]
    done = None if run.last_iteration is None else run.last_iteration + 1
    if run.state != "finished" and done is not None:
        parts.append(f"{done:,} of {run.length:,} steps" if run.length else f"{done:,} steps")
    left = run.curves.get("eta_seconds")
    if run.state == "running" and left:
        parts.append(f"about {tables.duration(left[-1][1])} left")
    if run.state == "silent" and run.logged is not None:
        since = tables.duration(time.time() - run.logged)
        parts.append(f"no line for {since}, before one every {_seconds(run.interval or 0.0)}")
    if run.state == "stopped" and run.stopped.get("reason"):
        parts.append(f"stopped: {run.stopped['reason']}")
    elif run.state == "stopped" and run.logged is not None:
        last = datetime.datetime.fromtimestamp(run.logged).strftime("%d %B, %H:%M")
        parts.append(f"last heard of on {last}")
    return ", ".join(parts)


def _seconds(value: float) -> str:
    return tables.duration(value) if value >= 10 else f"{value:.2g} s"


def environments(runs: Sequence[Run]) -> str:
    """What the runs ran in, once where it is the same."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.environment:
            groups.setdefault(repr(run.environment), []).append(run)
    parts = []
    for own in groups.values():
        who = "all runs" if len(own) == len(runs) > 1 else ", ".join(run.name for run in own)
        title = "Environment" if len(runs) == 1 else f"Environment of {who}"
        parts.append(f"<h3>{escape(title)}</h3>{_environment(own[0])}")
    return "".join(parts)


def _environment(run: Run) -> str:
    told = dict(run.environment)
    packages, missing = told.pop("packages", None), told.pop("missing", None)
    wheels = told.pop("opencv_wheels", None)
    parts = [
        tables.definitions({key: value for key, value in told.items() if value not in ([], {})})
    ]
    if isinstance(packages, dict):
        packages = packages | (wheels if isinstance(wheels, dict) else {})
        chips = "".join(
            f"<li>{escape(str(name))} <b>{escape(tables.plain(version))}</b></li>"
            for name, version in packages.items()
            if version is not None
        )
        parts.append(f'<ul class="chips" aria-label="Packages">{chips}</ul>')
    if isinstance(missing, list) and missing:
        names = [
            str(one.get("name", one)) if isinstance(one, dict) else str(one) for one in missing
        ]
        parts.append(f'<p class="dim">Not installed: {escape(", ".join(names))}.</p>')
    return f'<div class="panel">{"".join(parts)}</div>'


def _of(setting: Setting, column: str) -> str:
    count = len(setting.scores(column))
    return escape(setting.name) + (f", {count} runs" if count > 1 else "")


def _against(best: Setting, baseline: Setting | None, column: str, digits: int) -> str:
    reference, mean = baseline.mean(column) if baseline else None, best.mean(column)
    if baseline is None or reference is None or mean is None or best is baseline:
        return ""
    noise = noise_of(best.scores(column), baseline.scores(column))
    difference = delta(mean - reference, digits=digits, noise=noise)
    single = ", of a single run" if noise is None else ""
    return f"<p>{difference} against {escape(baseline.name)}{single}</p>"


def _states(runs: Sequence[Run]) -> str:
    counts = {text: [r.state for r in runs].count(state) for state, text in _STATES.items()}
    told = ", ".join(f"{count} {text}" for text, count in counts.items() if count)
    spent = [run.summary.get("seconds") for run in runs]
    seconds = sum(s for s in spent if isinstance(s, int | float))
    time = f"<p>{tables.duration(seconds)} together</p>" if seconds else ""
    return _card("Runs", str(len(runs)), told, time)


def _single(run: Run) -> list[str]:
    losses = run.curves.get("total_loss", [])
    parts = []
    if losses and run.kind == "pretrain":
        text = f"{losses[0][1]:.3g} → {losses[-1][1]:.3g}"
        parts.append(_card("Pretraining loss", text, escape(tables.method(run))))
    share = run.summary.get("init_coverage")
    if isinstance(share, int | float) and 0 <= share <= 1:
        parts.append(_card("Weights loaded", f"{share:.1%}", "of the file that it began with"))
    return parts


def _card(title: str, big: str, text: str, more: str = "") -> str:
    return (
        f'<div class="card"><h3>{breakable(title)}</h3><div class="big">{big}</div><p>{text}</p>'
        f"{more}</div>"
    )


def _steps(run: Run) -> str:
    last = run.last_iteration
    return tables.number_cell(last, None if last is None else f"{last + 1:,}")


def _time(run: Run) -> str:
    seconds = run.summary.get("seconds")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return tables.number_cell(None)
    return tables.number_cell(float(seconds), tables.duration(seconds))
