"""Line charts as inline SVG, drawn by hand: no font, no network, whole without a script.

Colours are CSS variables of the page, so that one drawing serves light, dark and print; each series
has a dash pattern as well, for readers who do not tell the colours apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from d2_unsupdet.analysis.page_names import breakable

Points = list[tuple[int, float]]

WIDTH, HEIGHT = 420, 236
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 10, 36  # room for the labels around the plot
MAX_POINTS = 240  # about two pixels each
MAX_DOTS = 16  # few enough to be told apart: evaluations, not training steps
DASHES = ("", "7 3", "2 3", "9 3 2 3")
COLORS = 8


@dataclass
class Series:
    """One line; `number` picks colour and dashes, so that a setting looks the same in all charts.

    Args:
        name: in legends.
        points: of the line, which is the mean where several runs are one series.
        number: of the setting.
        low, high: lowest and highest of the runs at each point; empty for one run.
        runs: how many the line is the mean of.
    """

    name: str
    points: Points
    number: int
    low: Points = field(default_factory=list)
    high: Points = field(default_factory=list)
    runs: int = 1


@dataclass
class Chart:
    """One pair of axes with the curves of several runs; `small` leaves out legend and numbers,
    `digits` after the point are those of its values elsewhere on the page."""

    title: str
    series: list[Series] = field(default_factory=list)
    x_label: str = "iteration"
    small: bool = False
    digits: int | None = None


def draw_chart(chart: Chart, chart_id: str) -> str:
    """A `<figure>`: the drawing with a text alternative, its legend, its numbers in a table."""
    series = [s for s in chart.series if s.points]
    more = "" if chart.small else legend(series, digits=chart.digits) + _table(chart, series)
    at = '<span class="at" hidden="hidden"></span>'  # a script says there where the pointer is
    title = f"<figcaption><span>{breakable(chart.title)}</span>{at}</figcaption>"
    return (
        f'<figure class="chart" id="{chart_id}">{title}'
        f"{_svg(chart, series, chart_id)}{more}</figure>"
    )


def nice_ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that cover [low, high]; `whole` ones of steps,
    which have no halves."""
    low, high = (min(max(value, -1e300), 1e300) for value in (low, high))
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-12 * largest, 1e-300):  # no finer than numbers of this size are
        pad = 0.1 * largest if largest > 1e-290 else 1.0
        low, high = low - pad, high + pad
    raw = high / count - low / count
    exponent = math.floor(math.log10(raw))
    power = 10.0**exponent
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, max(12, 12 - exponent)) for i in range(first, last + 1)]


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


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """As few digits as tell all ticks of an axis apart."""
    sizes = [abs(tick) for tick in ticks if tick]
    power = min(sizes, default=1.0) < 1e-3 and max(sizes) < 1e-2  # all of them alike
    for digits in range(1, 12):
        labels = [number(tick, digits, below=1e-2 if power else 1e-3) for tick in ticks]
        if all(_is_near(float(_plain(la)), tick) for la, tick in zip(labels, ticks, strict=True)):
            break
    return labels


def number(value: float, digits: int = 4, *, below: float = 1e-3) -> str:
    """A number short enough for an axis: 0.003, 12.5, 90k, 2.5e-4; with a power of ten `below`."""
    size = abs(value)
    if 1e6 <= size < 1e12:
        return f"{value / 1e6:.{max(digits, 3)}g}M"
    if 1e3 <= size < 1e6:
        return f"{value / 1e3:.{max(digits, 3)}g}k"
    if 0 < size < below or size >= 1e12:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(power)}"
    return f"{value:.{max(digits, 3)}g}"


def _plain(label: str) -> str:
    return label.replace("k", "e3").replace("M", "e6")


def _is_near(shown: float, value: float) -> bool:
    return abs(shown - value) <= 1e-9 * max(abs(value), 1e-12)


def dash(index: int) -> str:
    """The dash pattern of a series; it changes each time the colours are used up, and before."""
    return DASHES[index % len(DASHES)]


def _value(point: tuple[int, float]) -> float:
    return point[1]


@dataclass
class _Frame:
    """From values to places in the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: float) -> float:
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def down(self, y: float) -> float:
        share = (y - self.y[0]) / (self.y[1] - self.y[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def place(self, points: Points) -> str:
        return " ".join(f"{self.across(x):.1f},{self.down(y):.1f}" for x, y in points)


def _svg(chart: Chart, series: list[Series], chart_id: str) -> str:
    everything = [p for s in series for p in (*s.points, *s.low, *s.high)] or [(0, 0.0)]
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    # An axis from 0 does not exaggerate; used unless it would squeeze the curves into a strip.
    floor = 0.0 if 0 <= min(ys) < 0.5 * max(ys) or max(ys) == min(ys) == 0 else min(ys)
    start = 0 if 0 <= min(xs) < 0.5 * max(xs) else min(xs)
    x_ticks, y_ticks = (
        nice_ticks(start, max(xs), 4, whole=True),
        nice_ticks(floor, max(ys) or 1.0, 4),
    )
    x_low, x_high = (start, max(xs)) if max(xs) > start else (x_ticks[0], x_ticks[-1])
    frame = _Frame((x_low, x_high), (y_ticks[0], y_ticks[-1]))
    parts = _axes(frame, [t for t in x_ticks if x_low <= t <= x_high], y_ticks, chart.x_label)
    parts += [_band(s, frame) for s in series if s.low]
    parts += [_line(s, frame, 120 if chart.small else MAX_POINTS) for s in series]
    labels = f"{chart_id}-t {chart_id}-d"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{labels}" '
        f'data-x="{x_low} {x_high}" data-y="{frame.y[0]} {frame.y[1]}" '
        f'data-plot="{LEFT} {WIDTH - RIGHT} {TOP} {HEIGHT - BOTTOM}">'
        f'<title id="{chart_id}-t">{escape(chart.title)}</title>'
        f'<desc id="{chart_id}-d">{escape(describe(series))}</desc>{"".join(parts)}</svg>'
    )


def _axes(
    frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], label: str
) -> list[str]:
    parts = []
    for tick, said in zip(y_ticks, tick_labels(y_ticks), strict=True):
        y = f"{frame.down(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy=".35em" class="left">{said}</text>')
    for tick, said in zip(x_ticks, tick_labels(x_ticks), strict=True):
        place = f'x="{frame.across(tick):.1f}" y="{HEIGHT - BOTTOM + 16}"'
        parts.append(f'<text {place} class="mid">{said}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" class="mid dim">{escape(label)}</text>')
    return parts


def _band(series: Series, frame: _Frame) -> str:
    edge = [*thin(series.high), *reversed(thin(series.low))]
    return (
        f'<polygon class="band s{series.number % COLORS}" data-s="{series.number}" '
        f'points="{frame.place(edge)}"/>'
    )


def _line(series: Series, frame: _Frame, limit: int) -> str:
    color, which = f"s{series.number % COLORS}", f'data-s="{series.number}"'
    parts = []
    if len(series.points) > 1:
        path = frame.place(thin(series.points, limit))
        pattern = f' stroke-dasharray="{dash(series.number)}"' if dash(series.number) else ""
        parts.append(f'<polyline class="line {color}" {which} points="{path}"{pattern}/>')
    if len(series.points) <= MAX_DOTS:
        for step, value in series.points:
            hint = escape(f"{series.name}, {step}: {value:.4g}")
            place = f'cx="{frame.across(step):.1f}" cy="{frame.down(value):.1f}" r="3"'
            parts.append(
                f'<circle class="dot {color}" {which} {place}><title>{hint}</title></circle>'
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
        many = f", mean of {line.runs} runs" if line.runs > 1 else ""
        if len(values) == 1:
            sentences.append(f"{line.name}{many}: {last:.4g} at {last_x}.")
        else:
            sentences.append(
                f"{line.name}{many}: {first:.4g} at {first_x} to {last:.4g} at {last_x}, "
                f"lowest {min(values):.4g}, highest {max(values):.4g}."
            )
    return " ".join(sentences)


def key_line(number: int) -> str:
    """A short piece of a setting's line, for legends and tables."""
    pattern = f' stroke-dasharray="{dash(number)}"' if dash(number) else ""
    return (
        '<svg class="key" viewBox="0 0 26 8" aria-hidden="true"><line class="line '
        f's{number % COLORS}" x1="1" x2="25" y1="4" y2="4"{pattern}/></svg>'
    )


def legend(series: list[Series], *, last: bool = True, digits: int | None = None) -> str:
    """Names beside their lines, with the last value of each if it says something."""
    if not series:
        return '<p class="dim">No values yet.</p>'
    items = []
    for line in series:
        many = f' <small class="dim">{line.runs} runs</small>' if line.runs > 1 else ""
        value = _last(line.points[-1][1], digits) if last else ""
        items.append(
            f'<li data-s="{line.number}">{key_line(line.number)}<span>{breakable(line.name)}{many}'
            f'</span> <b class="num" data-last="{value}">{value}</b></li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _last(value: float, digits: int | None) -> str:
    if digits is not None:
        return f"{value:.{digits}f}"
    return number(value, 3) if abs(value) < 1e-3 else f"{value:#.4g}".rstrip(".")


def _table(chart: Chart, series: list[Series]) -> str:
    """The numbers at about a dozen iterations, for readers and screen readers."""
    steps = sorted({x for s in series for x, _ in s.points})
    if not steps:
        return ""
    stride = math.ceil(len(steps) / 12)
    shown = sorted({*steps[::stride], steps[-1]})
    values = [dict(s.points) for s in series]
    head = "".join(f'<th scope="col">{breakable(s.name)}</th>' for s in series)
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
