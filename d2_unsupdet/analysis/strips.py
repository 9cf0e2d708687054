"""A score at a glance: a line a setting, each run a dot, the mean a bar, the paper a diamond."""

from collections.abc import Sequence

from d2_unsupdet.analysis.curves import COLORS, key_line, nice_ticks, tick_labels
from d2_unsupdet.analysis.page_names import breakable
from d2_unsupdet.analysis.score_table import runs_of
from d2_unsupdet.analysis.scored_on import by_test_set, in_short, score_digits
from d2_unsupdet.analysis.scores import one_a_task, score_columns, score_title
from d2_unsupdet.analysis.settings import Setting


def strips(settings: Sequence[Setting]) -> str:
    """A figure for the first score of each task and test set that several settings have."""
    parts = []
    groups = by_test_set(settings)
    short = in_short(groups)
    for how, own in groups.items():
        for column in one_a_task(score_columns(runs_of(own))):
            rivals = [setting for setting in own if setting.scores(column)]
            if len(rivals) > 1:
                where = f" on {short[how].place}" if how.is_known else ""
                title = score_title(column, how.metric) + where
                parts.append(_figure(title, column, rivals, score_digits(own)))
    return f'<div class="strips">{"".join(parts)}</div>' if parts else ""


class _Scale:
    """From a score to its place, in percent of the width."""

    def __init__(self, values: Sequence[float]) -> None:
        low = 0.0 if 0 <= min(values) < 0.5 * max(values) else min(values)
        self.ticks = nice_ticks(low, max(values), 4)

    def __call__(self, value: float) -> str:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return f"{3 + 94 * share:.2f}%"


def _figure(title: str, column: str, rivals: Sequence[Setting], digits: int) -> str:
    rows = sorted(rivals, key=lambda s: -(s.mean(column) or 0.0))
    values = [value for setting in rows for value in setting.scores(column)]
    printed = [p for p in (setting.paper(column) for setting in rows) if p is not None]
    scale = _Scale([*values, *printed])
    grid = "".join(
        f'<line class="grid" x1="{scale(t)}" x2="{scale(t)}" y1="0" y2="100%"/>'
        for t in scale.ticks
    )
    lines = [_row(setting, column, scale, grid, digits) for setting in rows]
    labels = "".join(
        f'<text x="{scale(t)}" y="12">{label}</text>'
        for t, label in zip(scale.ticks, tick_labels(scale.ticks), strict=True)
    )
    notes = []
    if any(len(setting.scores(column)) > 1 for setting in rows):
        notes.append("Dot: a run; bar: the mean over seeds.")
    if printed:
        notes.append("Diamond: the reference number, of a paper or an earlier run.")
    note = f'<p class="dim">{" ".join(notes)}</p>' if notes else ""
    return (
        f'<figure class="panel"><figcaption>{breakable(title)}</figcaption>'
        f'<ol class="strip-rows">{"".join(lines)}<li aria-hidden="true" class="scale"><span></span>'
        f"<svg>{labels}</svg><b></b></li></ol>{note}</figure>"
    )


def _row(setting: Setting, column: str, scale: _Scale, grid: str, digits: int) -> str:
    color, values = f"s{setting.number % COLORS}", setting.scores(column)
    mean, paper = setting.mean(column) or 0.0, setting.paper(column)
    marks = "".join(f'<circle class="dot {color}" cx="{scale(v)}" cy="50%" r="5"/>' for v in values)
    if len(values) > 1:
        x = scale(mean)
        marks += f'<line class="mean {color}" x1="{x}" x2="{x}" y1="12%" y2="88%"/>'
    said = ""
    if paper is not None:
        diamond = '<path class="diamond" d="M0-7 7 0 0 7-7 0z"/>'
        marks += f'<svg class="mark" x="{scale(paper)}" y="50%">{diamond}</svg>'
        said = f'<small class="paper">ref. {paper:.{digits}f}</small>'
    return (
        f'<li data-s="{setting.number}"><span class="who">{key_line(setting.number)}'
        f"<span>{breakable(setting.name)}</span></span>"
        f'<span class="strip"><svg aria-hidden="true">{grid}{marks}</svg></span>'
        f'<b class="num">{mean:.{digits}f}{said}</b></li>'
    )
