"""Charts: ticks, thinning, text alternative, and an SVG that any XML parser accepts."""

import math
import xml.etree.ElementTree as ET

import pytest

from d2_unsupdet.analysis.curves import (
    HEIGHT,
    WIDTH,
    Chart,
    Series,
    describe,
    draw_chart,
    nice_ticks,
    number,
    thin,
    tick_labels,
)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.13, 0.98, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_cover_the_values(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (3, 3), (1e-12, 1e-12), (-5, -5), (0, 1e9)])
def test_ticks_cover_flat_and_extreme_ranges(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) < 15


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((-1e308, 1e308), (0, 1.7e308), (-1.7e308, -1.6e308), (0, 5e-324), (-1e-310, 1e-310)),
        *((1.0, 1.0 + 2**-52), (1e16, 1e16 + 2), (1e-13, 3e-13), (1e-200, 2e-200)),
    ],
)
def test_ticks_of_any_two_values_are_finite_and_apart(low, high):
    ticks = nice_ticks(low, high)
    assert all(map(math.isfinite, ticks)) and 2 <= len(set(ticks)) == len(ticks) < 15
    ET.fromstring(draw_chart(Chart("a", [Series("s", [(0, low), (1, high)], 0)]), "c"))


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 3.2e-4, ["0", "1e-4", "2e-4", "3e-4", "4e-4"]),
        (1e-4, 3e-4, ["1e-4", "1.5e-4", "2e-4", "2.5e-4", "3e-4"]),
        (0, 2e-3, ["0", "5e-4", "1e-3", "1.5e-3", "2e-3"]),
        (10_000, 10_040, ["10k", "10.01k", "10.02k", "10.03k", "10.04k"]),
    ],
)
def test_tick_labels_say_what_the_ticks_are(low, high, labels):
    assert tick_labels(nice_ticks(low, high, 4)) == labels


def test_steps_have_no_halves():
    assert nice_ticks(3, 4, 4, whole=True) == [3, 4]
    page = draw_chart(Chart("a", [Series("s", [(3, 1.0), (4, 2.0)], 0)]), "c")
    assert "3.5" not in page


def test_the_last_rate_stands_in_the_legend():
    assert 'data-last="2e-5"' in draw_chart(Chart("lr", [Series("s", [(3, 2e-5)], 0)]), "c")


def test_thinning_keeps_ends_and_spikes():
    points = [(i, 0.0) for i in range(10_000)]
    points[5_000] = (5_000, 99.0)
    points[7_000] = (7_000, -99.0)
    kept = thin(points, 300)
    assert len(kept) <= 310 and kept[0] == points[0] and kept[-1] == points[-1]
    assert (5_000, 99.0) in kept and (7_000, -99.0) in kept
    assert kept == sorted(kept)


def test_numbers_are_short():
    assert [number(v) for v in (0, 0.02, 12.5, 90_000, 3e6, 2e-5)] == [
        "0", "0.02", "12.5", "90k", "3M", "2e-5",
    ]  # fmt: skip


def test_text_alternative_states_ends_and_extremes():
    line = Series("a", [(0, 3.0), (10, 1.0), (20, 2.0)], 0)
    assert describe([line]) == "a: 3 at 0 to 2 at 20, lowest 1, highest 3."
    assert describe([]) == "No values yet."


def test_drawing_is_well_formed_and_points_lie_inside():
    hostile = "<b>&\"'"
    chart = Chart(
        hostile, [Series(hostile, [(0, -2.0), (500, 7.5)], 9), Series("one", [(3, 1.0)], 1)]
    )
    figure = ET.fromstring(draw_chart(chart, "c"))
    svg = figure.find("svg")
    assert svg.find("title").text == hostile and svg.get("role") == "img"
    (line,) = svg.iter("polyline")
    xs, ys = zip(*[map(float, p.split(",")) for p in line.get("points").split()], strict=True)
    assert 0 <= min(xs) < max(xs) <= WIDTH and 0 <= min(ys) < max(ys) <= HEIGHT
    assert ys[0] > ys[1]  # a larger value stands higher
    assert len(list(svg.iter("circle"))) == 3


def test_a_chart_without_values_says_so():
    assert "No values yet" in draw_chart(Chart("Loss", [Series("a", [], 0)]), "c")
