"""The page in a browser: tabs, keys, sorting, pictures; light, dark, on paper and on a phone."""

import json
import time

import pytest

from d2_unsupdet.analysis.report import write_report
from tests.analysis.run_folders import add_picture, make_run
from tests.browser import browser, needs_browser

pytestmark = needs_browser

SHOWN = "[...document.querySelectorAll('main > section')].filter(s => !s.hidden).map(s => s.id)"
SECTIONS = ["summary", "scores", "curves", "pictures", "runs"]
MOST_BYTES, MOST_SECONDS = 2_000_000, 20.0  # of twelve runs, opened beside other programs


def text(selector):
    return f"document.querySelector({json.dumps(selector)}).innerText.trim()"


def rows(table="#score-table"):
    """The names in a table's first column, from above."""
    return (
        f"[...document.querySelectorAll({json.dumps(table + ' tbody tr')})]"
        ".map(row => row.cells[0].dataset.value)"
    )


def style(selector, name):
    return f"getComputedStyle(document.querySelector({json.dumps(selector)})).{name}"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Three settings of finetuning, one of two seeds; a pretraining; pictures of each layout."""
    folder = tmp_path_factory.mktemp("report")
    runs = [make_run(folder / f"ours_s{i}", seed=i, ap=30.0 + 2 * i) for i in range(2)]
    for name, ap in (("scratch", 20.0), ("a_very_long_name_" * 6, 25.0)):
        runs.append(make_run(folder / name, ap=ap, config=f"lr: {ap}"))
    runs.append(make_run(folder / "moco", kind="pretrain", ap=None, config="lr: 1"))
    for run in runs[:3]:
        add_picture(run, "p.png", caption="dog.jpg", group="predictions", image="dog.jpg")
    for loss in (1.0, 3.0, 2.0):
        add_picture(runs[0], f"f{loss:g}.png", caption=f"loss {loss}", group="failures", value=loss)
    (runs[0] / "paper.json").write_text(json.dumps({"paper": "P", "values": {"bbox/AP": 33.0}}))
    return write_report(runs, folder / "report.html", baseline="scratch").as_uri()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


@pytest.fixture
def opened(page, report):
    """The page in a window, its console clean before and after."""
    page.complaints.clear()
    page.show(1200, 900)
    page.open("about:blank")
    page.open(report)
    yield page
    assert page.complaints == []


def test_tabs_follow_clicks_arrows_and_the_address(opened):
    assert opened.evaluate(SHOWN) == ["summary"]
    opened.click("nav a[href='#curves']")
    opened.wait(f"{SHOWN}.join() === 'curves'", 10)
    for key, shown in (("ArrowRight", 3), ("End", 4), ("ArrowRight", 0), ("ArrowLeft", 4)):
        opened.key(key)
        opened.wait(f"{SHOWN}[0] === '{SECTIONS[shown]}'", 10)
    opened.key("Home")
    opened.wait(f"{SHOWN}[0] === 'summary'", 10)
    roles = (
        "['tablist', 'tab', 'tabpanel'].map(r => document.querySelectorAll(`[role=${r}]`).length)"
    )
    assert opened.evaluate(roles) == [1, 5, 5]
    selected = "document.querySelectorAll('[role=tab][aria-selected=true][tabindex=\"0\"]').length"
    assert opened.evaluate(selected) == 1
    opened.evaluate("history.back()")
    opened.wait(f"{SHOWN}[0] === 'runs'", 10)


def test_a_deep_link_shows_its_tab_and_unfolds(opened, report):
    opened.open("about:blank")
    opened.open(report + "#run-2")
    assert opened.evaluate(SHOWN) == ["runs"]
    assert opened.evaluate("document.getElementById('run-2').open")
    assert opened.evaluate("document.getElementById('run-2').getBoundingClientRect().top") < 900
    opened.evaluate("location.hash = '#picture-1'")
    opened.wait(f"{SHOWN}[0] === 'pictures'", 10)


def test_tables_sort_both_ways_by_click_and_key(opened):
    opened.click("nav a[href='#scores']")
    before = opened.evaluate(rows())
    assert [name[:7] for name in before] == ["ours", "scratch", "a_very_"]
    head = "#scores .sortable thead th:nth-child(2) button"
    opened.click(head)
    assert [n[:7] for n in opened.evaluate(rows())] == ["ours", "a_very_", "scratch"]
    opened.key("Enter")
    assert [n[:7] for n in opened.evaluate(rows())] == ["scratch", "a_very_", "ours"]
    way = "document.querySelector('#scores [aria-sort]').getAttribute('aria-sort')"
    assert opened.evaluate(way) == "ascending"
    opened.click("#scores .sortable thead th:first-child button")
    assert [n[:7] for n in opened.evaluate(rows())] == ["a_very_", "ours", "scratch"]


def test_another_baseline_is_what_python_would_write(opened):
    """Differences are drawn twice, by the page's maker and by its script: both say the same."""
    cells = "[...document.querySelectorAll('#score-table td')].map(c => c.innerText)"
    before = opened.evaluate(cells)
    assert "+11.0" in "".join(before) and "▲" not in "".join(before)  # of a single run
    choose = (
        "(() => { const s = document.querySelector('#score-table select'); s.value = '%s';"
        "s.dispatchEvent(new Event('change')); })()"
    )
    opened.evaluate(choose % "ours")
    after = "".join(opened.evaluate(cells))
    assert "−11.0" in after and "▼" not in after
    opened.evaluate(choose % "")
    assert "11.0" not in "".join(opened.evaluate(cells))
    opened.evaluate(choose % "scratch")
    assert opened.evaluate(cells) == before


def test_colours_of_several_seeds_and_tables_of_two_test_sets(page, tmp_path):
    runs = []
    for name, ap, test in (("a", 30.0, "x"), ("b", 20.0, "x"), ("c", 9.0, "y"), ("d", 8.0, "y")):
        config = f"dataloader: {{test: {{dataset: {{names: {test}}}}}}}\nlr: {ap}"
        runs += [
            make_run(tmp_path / f"{name}_s{i}", seed=i, ap=ap + i / 10, config=config)
            for i in range(2)
        ]
    page.complaints.clear()
    page.show(1200, 900)
    page.open(write_report(runs, tmp_path / "r.html", baseline="b").as_uri() + "#scores")
    cells = "[...document.querySelectorAll('%s td')].map(c => c.innerText).join()"
    first, second = "#score-table", "#score-table-2"
    before = page.evaluate(cells % first)
    assert "▲ +10.0" in before and page.evaluate(cells % second).count("▲") == 0
    choose = (
        "(() => { const s = document.querySelector('%s select'); s.value = '%s';"
        "s.dispatchEvent(new Event('change')); })()"
    )
    page.evaluate(choose % (second, "c"))
    assert "▼ −1.0" in page.evaluate(cells % second)
    page.evaluate(choose % (first, "a"))
    assert "▼ −10.0" in page.evaluate(cells % first) and "▼ −1.0" in page.evaluate(cells % second)
    page.evaluate(choose % (first, "b"))
    assert page.evaluate(cells % first) == before
    assert page.complaints == []


def test_a_table_that_is_cut_says_so(opened):
    hints = (
        "[...document.querySelectorAll('#summary .hint, #scores .hint')]"
        ".map(h => getComputedStyle(h).display)"
    )
    opened.show(390, 800)
    opened.wait(f"{hints}[0] === 'block'", 10)
    opened.show(1600, 900)
    opened.wait(f"{hints}.every(d => d === 'none')", 10)


def test_pictures_load_sort_and_enlarge(opened):
    opened.click("nav a[href='#pictures']")
    images = "[...document.querySelectorAll('.shot img')]"
    opened.evaluate(f"{images}.forEach(i => i.loading = 'eager')")
    opened.evaluate(f"Promise.all({images}.map(i => i.decode())).then(() => 1)")
    assert opened.evaluate(f"{images}.filter(i => i.naturalWidth > 0).length") == 6
    assert opened.evaluate(f"{images}.every(i => i.alt)")
    losses = "[...document.querySelectorAll('.sorted .shot')].map(s => +s.dataset.value)"
    assert opened.evaluate(losses) == [3, 2, 1]
    opened.evaluate(
        "(() => { const s = document.querySelector('#pictures select'); s.value = '-1';"
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert opened.evaluate(losses) == [1, 2, 3]
    opened.click(".shot a")
    assert opened.evaluate("document.querySelector('dialog').open")
    assert opened.evaluate(text("dialog p")).endswith("1 of 6")
    opened.key("ArrowRight")
    assert opened.evaluate(text("dialog p")).endswith("2 of 6")
    opened.key("Escape")
    opened.wait("!document.querySelector('dialog').open", 10)


def test_a_chart_tells_the_value_under_the_pointer(opened):
    opened.click("nav a[href='#curves']")
    opened.wait(f"{SHOWN}[0] === 'curves'", 10)
    place = "(() => { const r = document.querySelector('.chart > svg').getBoundingClientRect();"
    x, y = opened.evaluate(place + "return [r.x + r.width * 0.97, r.y + r.height / 2]; })()")
    opened.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    opened.wait("!document.querySelector('.chart .at').hidden", 10)
    assert opened.evaluate(text(".chart .at")) == "near 200"
    told = float(opened.evaluate(text(".chart .legend b")))
    assert told == pytest.approx(31.0, abs=0.2)  # the mean of both seeds at the end


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_one_way_in_light_and_dark(opened, report, dark):
    opened.show(390, 800, dark=dark)
    for section in SECTIONS:
        opened.open("about:blank")
        opened.open(f"{report}#{section}")
        assert opened.evaluate(SHOWN) == [section]
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    background = opened.evaluate(style("body", "backgroundColor"))
    ink = opened.evaluate(style("body", "color"))
    light, other = (sum(map(int, c[4:-1].split(","))) for c in (background, ink))
    assert (light < 120 and other > 600) if dark else (light > 600 and other < 120)


def test_long_names_of_data_break_inside_of_their_boxes(page, tmp_path):
    """Own data are called by their paths; of two that are alike in short the whole names stand."""
    folder = "output/a_long_way_down/to/my/example"
    names = [f"coco:{folder}{i}/own/val.json@{folder}{i}/images/of_the_test/val" for i in (1, 2)]
    runs = []
    for i, name in enumerate(names * 2):
        test = json.dumps({"test": {"dataset": {"names": name}}})
        config = f"dataloader: {test}\nlr: {i}"
        runs.append(make_run(tmp_path / f"r{i}", ap=20.0 + i, data=name, config=config))
    report = write_report(runs, tmp_path / "r.html").as_uri()
    wide = (
        "[...document.querySelectorAll('.card, .panel, .chart')]"
        ".filter(box => box.scrollWidth > box.clientWidth + 1).length"
    )
    for width in (1280, 390):
        page.show(width, 800)
        for section in SECTIONS[:3]:
            page.open("about:blank")
            page.open(f"{report}#{section}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(wide) == 0
    assert names[0] in page.evaluate(text("#scores h3"))


def test_paper_shows_all_sections_and_no_controls(opened):
    opened.show(800, 1000, media="print")
    visible = "[...document.querySelectorAll('main > section')].map(s => s.checkVisibility())"
    assert opened.evaluate(visible) == [True] * 5
    assert opened.evaluate(style("nav", "display")) == "none"
    assert opened.evaluate(style("#score-table .base", "whiteSpace")) == "nowrap"
    assert opened.evaluate(style("#score-table .base", "overflowWrap")) == "normal"
    assert opened.evaluate("document.documentElement.scrollWidth") <= 800


def test_without_scripts_everything_is_there(opened, report):
    opened.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        opened.open("about:blank")
        opened.open(report)
        visible = "[...document.querySelectorAll('main > section')].map(s => s.checkVisibility())"
        assert opened.evaluate(visible) == [True] * 5
        assert opened.evaluate("document.querySelectorAll('select, thead button').length") == 0
    finally:
        opened.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_everything_is_reached_by_the_keyboard(opened):
    focused = "document.activeElement.className + ' ' + document.activeElement.tagName"
    opened.key("Tab")
    assert opened.evaluate(focused) == "skip A"
    opened.key("Tab")
    assert opened.evaluate("document.activeElement.hash") == "#summary"
    opened.key("Tab")  # one stop for all tabs: the next is in the panel
    inside = "document.getElementById('summary').contains(document.activeElement)"
    assert opened.evaluate(inside)


def test_twelve_runs_make_a_modest_page_that_opens_at_once(page, tmp_path):
    runs = []
    for name in "abcd":
        for seed in range(3):
            run = make_run(tmp_path / f"{name}_s{seed}", seed=seed, steps=400, config=f"lr: {name}")
            for i in range(12):
                add_picture(run, f"p{i}.png", caption=f"{i}.jpg", group="predictions")
            runs.append(run)
    path = write_report(runs, tmp_path / "report.html")
    assert path.stat().st_size < MOST_BYTES
    page.complaints.clear()
    page.show(1200, 900)
    begin = time.monotonic()
    page.open(path.as_uri())
    page.wait("document.documentElement.classList.contains('ready')")
    assert time.monotonic() - begin < MOST_SECONDS
    assert page.complaints == []
