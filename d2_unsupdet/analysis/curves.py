"""Line charts as inline SVG, drawn by hand: no script, no font, no network.

Colours are CSS variables of the page, so that one drawing serves light, dark and print; each series
has a dash pattern as well, for readers who do not tell the colours apart.
"""

import math
from dataclasses import dataclass, field
from html import escape

Points = list[tuple[int, float]]

WIDTH, HEIGHT = 400, 232
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 36  # room for the labels around the plot
MAX_POINTS = 300  # about one for each pixel of the plot
MAX_DOTS = 16  # few enough to be told apart: evaluations, not training steps
DASHES = ("", "7 3", "2 3", "9 3 2 3")
COLORS = 8


@dataclass
class Series:
    """One line; `number` picks colour and dashes, so that a run looks the same in all charts."""

    name: str
    points: Points
    number: int


@dataclass
class Chart:
    """One pair of axes with the curves of several runs."""

    title: str
    series: list[Series] = field(default_factory=list)
    x_label: str = "iteration"


def draw_chart(chart: Chart, chart_id: str) -> str:
    """A `<figure>`: the drawing with a text alternative, its legend, its numbers in a table."""
    series = [s for s in chart.series if s.points]
    return (
        f'<figure class="chart" id="{chart_id}"><figcaption>{escape(chart.title)}</figcaption>'
        f"{_svg(chart, series, chart_id)}{_legend(series)}{_table(chart, series)}</figure>"
    )


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover [low, high]."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def thin(points: Points, limit: int = MAX_POINTS) -> Points:
    """At most about `limit` points that keep each stretch's lowest and highest value."""
    if len(points) <= limit:
        return points
    size = math.ceil(len(points) * 2 / limit)
    kept = [points[0]]
    for start in range(1, len(points) - 1, size):
        stretch = points[start : min(start + size, len(points) - 1)]
        kept += sorted({min(stretch, key=_value), max(stretch, key=_value)})
    return [*kept, points[-1]]


def number(value: float) -> str:
    """A number short enough for an axis: 0.003, 12.5, 90k."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    if 0 < size < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def dash(index: int) -> str:
    """The dash pattern of a series; it changes each time the colours are used up, and before."""
    return DASHES[index % len(DASHES)]


def _value(point: tuple[int, float]) -> float:
    return point[1]


def _svg(chart: Chart, series: list[Series], chart_id: str) -> str:
    xs = [x for s in series for x, _ in s.points] or [0]
    ys = [y for s in series for _, y in s.points] or [0.0]
    # An axis from 0 does not exaggerate; used unless it would squeeze the curves into a strip.
    floor = 0.0 if 0 <= min(ys) < 0.5 * max(ys) or max(ys) == min(ys) == 0 else min(ys)
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs), 4), nice_ticks(floor, max(ys) or 1.0, 4)
    x_low, x_high = (min(xs), max(xs)) if max(xs) > min(xs) else (x_ticks[0], x_ticks[-1])
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in y_ticks:
        y = f"{down(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy=".35em" class="left">{number(tick)}</text>')
    for tick in (t for t in x_ticks if x_low <= t <= x_high):
        parts.append(
            f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" class="mid">'
            f"{number(tick)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 4}" class="mid dim">{escape(chart.x_label)}</text>'
    )
    for line in series:
        parts.append(_line(line, [(across(x), down(y)) for x, y in thin(line.points)]))
    labels = f"{chart_id}-t {chart_id}-d"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{labels}">'
        f'<title id="{chart_id}-t">{escape(chart.title)}</title>'
        f'<desc id="{chart_id}-d">{escape(describe(series))}</desc>{"".join(parts)}</svg>'
    )


def _line(series: Series, places: list[tuple[float, float]]) -> str:
    color = f"s{series.number % COLORS}"
    parts = []
    if len(places) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        pattern = f' stroke-dasharray="{dash(series.number)}"' if dash(series.number) else ""
        parts.append(f'<polyline class="line {color}" points="{path}"{pattern}/>')
    if len(places) <= MAX_DOTS:
        for (x, y), (step, value) in zip(places, series.points, strict=True):
            hint = escape(f"{series.name}, {step}: {value:.4g}")
            parts.append(
                f'<circle class="dot {color}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
                f"<title>{hint}</title></circle>"
            )
    return "".join(parts)


def describe(series: list[Series]) -> str:
    """The text alternative: where each line starts and ends, its lowest and highest value."""
    if not series:
        return "No values yet."
    sentences = []
    for line in series:
        (first_x, first), (last_x, last) = line.points[0], line.points[-1]
        values = [y for _, y in line.points]
        if len(values) == 1:
            sentences.append(f"{line.name}: {last:.4g} at {last_x}.")
        else:
            sentences.append(
                f"{line.name}: {first:.4g} at {first_x} to {last:.4g} at {last_x}, "
                f"lowest {min(values):.4g}, highest {max(values):.4g}."
            )
    return " ".join(sentences)


def _legend(series: list[Series]) -> str:
    if not series:
        return '<p class="dim">No values yet.</p>'
    items = []
    for line in series:
        pattern = f' stroke-dasharray="{dash(line.number)}"' if dash(line.number) else ""
        items.append(
            f'<li><svg class="key" viewBox="0 0 26 8" aria-hidden="true"><line class="line '
            f's{line.number % COLORS}" x1="1" x2="25" y1="4" y2="4"{pattern}/></svg>'
            f'<span>{escape(line.name)}</span> <b class="num">{line.points[-1][1]:.4g}</b></li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _table(chart: Chart, series: list[Series]) -> str:
    """The numbers at about a dozen iterations, for readers and screen readers."""
    steps = sorted({x for s in series for x, _ in s.points})
    if not steps:
        return ""
    stride = math.ceil(len(steps) / 12)
    shown = sorted({*steps[::stride], steps[-1]})
    values = [dict(s.points) for s in series]
    head = "".join(f'<th scope="col">{escape(s.name)}</th>' for s in series)
    rows = []
    for step in shown:
        cells = "".join(f"<td>{v[step]:.4g}</td>" if step in v else "<td>–</td>" for v in values)
        rows.append(f'<tr><th scope="row">{step}</th>{cells}</tr>')
    return (
        f'<details><summary>Numbers</summary><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(chart.title)}, numbers"><table class="plain"><thead><tr>'
        f'<th scope="col">{escape(chart.x_label)}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )
