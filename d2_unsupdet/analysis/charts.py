"""Which curves the report draws, by kind of run; seeds of a setting become one line with a band."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape

from d2_unsupdet.analysis import tables
from d2_unsupdet.analysis.convergence import common_points
from d2_unsupdet.analysis.curves import Chart, Points, Series, draw_chart, legend
from d2_unsupdet.analysis.score_names import is_of_one_class, is_score
from d2_unsupdet.analysis.scored_on import by_test_set, in_short, score_digits
from d2_unsupdet.analysis.scores import is_main_score, score_title
from d2_unsupdet.analysis.settings import Setting

_KINDS = {"pretrain": "Pretraining", "finetune": "Finetuning", "run": "Training"}
_UNCHARTED = {"eta_seconds", "data_time", "time", "epoch", "rank_data_time"}
# What a page holds: a large chart has 20 kB, a small one 4; all of a long evaluation are fewer.
_MOST_SCORES, _MOST_SPREADS, _MOST_SMALL = 30, 10, 200
_TITLES = {"total_loss": "Total loss", "lr": "Learning rate"}


def curves(settings: Sequence[Setting]) -> str:
    """Charts by kind of run: the losses of pretraining and finetuning do not share an axis."""
    parts: list[str] = []
    kinds = dict.fromkeys(setting.kind for setting in settings)
    for kind in sorted(kinds, key=lambda k: k == "pretrain"):
        own = [setting for setting in settings if setting.kind == kind]
        body = _kind(own, f"{'pre' if kind == 'pretrain' else 'fine'}-{len(parts)}")
        if body:
            title = _KINDS.get(kind, kind.capitalize())
            heading = f"<h3>{escape(title)}</h3>" if len(kinds) > 1 else ""
            parts.append(heading + body)
    return "".join(parts)


def series(settings: Iterable[Setting], name: str) -> list[Series]:
    """A line a setting: of several runs the mean with lowest and highest, where all have a value;
    single lines if they never do."""
    lines = []
    for setting in settings:
        found = [_counted(run.curves[name]) for run in setting.runs if run.curves.get(name)]
        x, values = common_points([dict(points) for points in found])
        if len(found) > 1 and len(x):
            steps = [int(step) for step in x]
            edges = values.mean(0), values.min(0), values.max(0)
            mean, low, high = (list(zip(steps, v.tolist(), strict=True)) for v in edges)
            lines.append(Series(setting.name, mean, setting.number, low, high, len(found)))
        else:
            lines += [Series(setting.name, points, setting.number) for points in found]
    return lines


def _counted(points: Points) -> Points:
    """Steps that are done, as in the run's length; the log counts them from 0."""
    return [(step + 1, value) for step, value in points]


def _kind(settings: Sequence[Setting], prefix: str) -> str:
    names = dict.fromkeys(n for s in settings for run in s.runs for n in run.curves)
    shown = [name for name in names if _is_curve(name, settings) and name not in _UNCHARTED]
    scores = [n for n in shown if is_score(n) and is_main_score(n)][:_MOST_SCORES]
    first = [*scores, *_present("total_loss", names), *_present("lr", names)]
    first += [n for n in shown if "feature_std" in n][:_MOST_SPREADS]
    main = [chart for name in first for chart in _charts(name, settings)]
    if not main:
        return ""
    drawn = "".join(draw_chart(chart, f"{prefix}-{i}") for i, chart in enumerate(main))
    rest = [n for n in shown if n not in first and not is_of_one_class(n)]
    folded = _folded(rest[:_MOST_SMALL], settings, prefix)
    return f'<div class="charts">{drawn}</div>{folded}{_left_out(len(rest) - _MOST_SMALL)}'


def _left_out(count: int) -> str:
    if count <= 0:
        return ""
    return (
        f'<p class="dim">{count} more curves stand only in metrics.json: a page draws '
        f"{_MOST_SMALL} beside the main ones.</p>"
    )


def _folded(names: Sequence[str], settings: Sequence[Setting], prefix: str) -> str:
    """The terms of each method's loss, and whatever else was logged, with one legend each."""
    losses = [name for name in names if "loss" in name]
    blocks = {f"Terms of the loss of {m}": (own, losses) for m, own in _methods(settings).items()}
    blocks["More curves"] = (list(settings), [name for name in names if name not in losses])
    parts = []
    for number, (title, (own, wanted)) in enumerate(blocks.items()):
        charts = [replace(chart, small=True) for name in wanted for chart in _charts(name, own)]
        charts = [chart for chart in charts if any(len(s.points) > 1 for s in chart.series)]
        if charts:
            drawn = [draw_chart(c, f"{prefix}-more-{number}-{i}") for i, c in enumerate(charts)]
            shared = legend(_legend_of(own), last=False) if len(own) > 1 else ""
            parts.append(
                f'<details class="more"><summary>{escape(title)} ({len(charts)})</summary>{shared}'
                f'<div class="charts small">{"".join(drawn)}</div></details>'
            )
    return "".join(parts)


def _legend_of(settings: Sequence[Setting]) -> list[Series]:
    return [Series(s.name, [(0, 0.0)], s.number) for s in settings]


def _charts(name: str, settings: Sequence[Setting]) -> list[Chart]:
    """One chart; of total losses one a method, as sums of other terms cannot be compared, and of
    scores one a test set."""
    if is_score(name):
        return _score_charts(name, settings)
    if name != "total_loss":
        return [Chart(_title(name), series(settings, name))]
    methods = _methods(settings)
    charts = []
    for method, own in methods.items():
        title = _title(name) if len(methods) == 1 else f"{_title(name)}, {method}"
        lines = series(own, name)
        if lines:
            charts.append(Chart(title, lines))
    return charts


def _score_charts(name: str, settings: Sequence[Setting]) -> list[Chart]:
    groups = by_test_set(settings)
    short = in_short(groups)
    charts = []
    for how, own in groups.items():
        lines = series(own, name)
        if any(len(line.points) > 1 for line in lines):  # a single evaluation stands in the table
            title = score_title(name, how.metric) + (
                f" on {short[how].place}" if len(groups) > 1 else ""
            )
            charts.append(Chart(title, lines, digits=score_digits(own)))
    return charts


def _methods(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(tables.method(setting.runs[0]), []).append(setting)
    return groups


def _title(name: str) -> str:
    return score_title(name) if is_score(name) else _TITLES.get(name, name)


def _present(name: str, names: Iterable[str]) -> list[str]:
    return [name] if name in names else []


def _is_curve(name: str, settings: Sequence[Setting]) -> bool:
    """A single evaluation stands in the table already."""
    return any(len(run.curves.get(name, ())) > 1 for s in settings for run in s.runs)
