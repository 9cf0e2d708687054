"""The page in a real browser: good and bad uploads, keys, a phone, and no other complaint."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import browser, needs_browser
from tests.demo.conftest import ROOT  # noqa: F401 (puts demo/ on the path)

import serve  # isort: skip

pytestmark = needs_browser
TROUBLE = "document.querySelector('#trouble')"
SEEN = "!document.querySelector('#result').hidden && document.body.ariaBusy === 'false'"


@pytest.fixture(scope="module")
def open_page(run_of, photos, tmp_path_factory):
    """A page of the demo for a run, by the command line's own options."""
    servers = []

    def start(name, *options):
        server = serve.build(
            serve.parse([str(run_of(name)), "--port", "0", "--images", str(photos), *options])
        )
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return server.address

    with browser(tmp_path_factory.mktemp("browser") / "profile") as page:

        def opened(name, *options, **window):
            page.complaints.clear()
            page.show(**window)
            page.open(start(name, *options))
            page.wait("document.body.dataset.ready")
            return page

        yield opened
    for server in servers:
        server.shutdown()
        server.server_close()


def text(page, selector):
    return page.evaluate(f"document.querySelector('{selector}').innerText")


def count(page, selector):
    return page.evaluate(f"document.querySelectorAll('{selector}').length")


def send(page, path: Path):
    page.upload("#file", path)
    page.wait(f"{SEEN} && document.querySelector('#name').innerText === '{path.name}'")


def test_good_and_bad_uploads(open_page, photos, tmp_path):
    page = open_page("deformable", "--megabytes", "0.2")
    assert "deformable" in text(page, "h1") and "circle" in text(page, "#kind")
    assert count(page, "#own img") == 5
    notes = tmp_path / "notes.jpg"
    notes.write_text("not an image at all")
    page.upload("#file", notes)
    page.wait(f"!{TROUBLE}.hidden")
    assert text(page, "#trouble").startswith("notes.jpg: This is no image that is read here")
    assert page.evaluate("document.querySelector('#result').hidden")
    assert text(page, "#status") == ""  # it is no longer looking at anything
    assert [c for c in page.complaints if "status of 415" not in c] == []
    page.complaints.clear()

    send(page, photos / "photo_1.png")
    assert page.evaluate(f"{TROUBLE}.hidden && {TROUBLE}.textContent === ''")
    assert text(page, "#size") == "80 × 60" and page.evaluate("image.naturalWidth") == 80
    assert count(page, "#neighbours img") == 5 and "photo_1.png" in text(page, "#neighbours li")
    assert text(page, "#neighbours").count("same") == 1
    label = page.evaluate("document.querySelector('#neighbours button').ariaLabel")
    assert label == "Look at photo_1.png, the same image"
    # random weights are sure of nothing: the page says so and offers a way on
    assert "No box scores that high" in text(page, "#none") and count(page, ".box") == 0
    page.click("#lower")
    assert count(page, ".box") == count(page, "#list button") == 5  # also where scores are tied
    assert text(page, "#slider-value") == "the surest 5"
    alt = page.evaluate("document.querySelector('#image').alt")
    assert alt.startswith(f"photo_1.png, {count(page, '.box')} boxes: ")

    large = tmp_path / "large.bmp"
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(large)
    page.upload("#file", large)
    page.wait(f"!{TROUBLE}.hidden")
    assert "0.3 MB and 0.2 MB are taken" in text(page, "#trouble")
    assert text(page, "#name") == "photo_1.png"  # what was seen stays
    assert page.complaints == []


def test_threshold_attention_and_keys(open_page, photos):
    page = open_page("deformable")
    requests = "performance.getEntriesByType('resource').length"
    send(page, photos / "photo_0.png")
    before = page.evaluate(requests)
    for value in (0, 1):
        page.evaluate(f"slider.value = {value}; slider.dispatchEvent(new Event('input'))")
        assert count(page, ".box") == (50, 0)[value]  # one a query
    assert page.evaluate("document.querySelector('#legend').hidden")
    page.click("#lower")
    assert page.evaluate("document.activeElement.closest('#list') !== null")
    page.key("Enter")
    assert count(page, "#list [aria-pressed=true]") == count(page, ".box.on") == 1
    assert count(page, "#points circle") == 4 * 2 * 4  # heads, levels, points
    assert "points around x 0." in page.evaluate("points.getAttribute('aria-label')")
    assert "12 × 16" in text(page, "#legend") and "6 × 8" in text(page, "#legend")
    page.key("Escape")
    assert count(page, ".box.on") == 0
    assert page.evaluate("document.querySelector('#points').hasAttribute('hidden')")
    page.click("#picture")  # a click in the picture takes the smallest box there, if any
    assert page.evaluate(requests) == before  # all of it without another request
    page.click("#neighbours button")
    page.wait(f"{SEEN} && document.querySelector('#name').innerText === 'photo_0.png'")
    page.wait("document.querySelectorAll('#neighbours li').length === 4")
    assert page.complaints == []


def test_heat_maps_on_a_phone_in_the_dark(open_page, photos):
    page = open_page("detr", width=390, height=800, dark=True)
    send(page, photos / "photo_2.png")
    if count(page, "#list button") == 0:
        page.click("#lower")
    page.click("#list button")
    assert page.evaluate("[heat.width, heat.height, heat.hidden]") == [8, 6, False]
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, background[4:-1].split(","))) < 120
    # 50 names would hide the picture
    page.evaluate("slider.value = 0; slider.dispatchEvent(new Event('input'))")
    assert count(page, ".box") == 50
    shown = "[...document.querySelectorAll('.box span')].filter((e) => e.offsetParent).length"
    assert page.evaluate(shown) <= 1
    assert page.complaints == []


def test_pretrained_detectors_and_backbones(open_page, photos):
    page = open_page("up_detr")
    assert "Pretrained without labels" in text(page, "#kind")
    send(page, photos / "photo_2.png")
    assert count(page, ".box") == 10 and text(page, "#slider-value") == "10"
    page.evaluate("slider.value = 3; slider.dispatchEvent(new Event('input'))")
    assert count(page, ".box") == 3
    page = open_page("moco")
    send(page, photos / "photo_2.png")
    assert count(page, "#neighbours img") == 5
    assert page.evaluate("document.querySelector('#found').hidden")
    assert page.complaints == []


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_an_image_from_elsewhere(open_page, kind):
    """Pasted or dropped, as a browser reports it."""
    page = open_page("moco")
    event = {"paste": "ClipboardEvent", "drop": "DragEvent"}[kind]
    holder = {"paste": "clipboardData", "drop": "dataTransfer"}[kind]
    page.evaluate(f"""(async () => {{
        const bytes = await (await fetch("/thumbnail/1")).blob();
        const data = new DataTransfer();
        data.items.add(new File([bytes], "from_elsewhere.jpg"));
        document.dispatchEvent(new {event}("{kind}", {{ {holder}: data }}));
    }})()""")
    page.wait(f"{SEEN} && document.querySelector('#name').innerText === 'from_elsewhere.jpg'")
    assert "photo_1.png" in text(page, "#neighbours li") and page.complaints == []


def test_a_server_that_has_gone_is_a_sentence(open_page, photos, monkeypatch):
    page = open_page("moco")
    page.evaluate("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    page.upload("#file", photos / "photo_2.png")
    page.wait(f"!{TROUBLE}.hidden")
    assert "is the demo still running" in text(page, "#trouble")
