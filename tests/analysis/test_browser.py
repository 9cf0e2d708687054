"""The page in a real browser: no errors, pictures load, sorting works, a phone scrolls one way."""

import json
import re
import shutil
import subprocess
from urllib.parse import unquote

import pytest

from d2_unsupdet.analysis.report import write_report
from tests.analysis.run_folders import add_picture, make_run

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium: the report was not rendered")

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
FLAGS += ["--disable-dev-shm-usage"]
FLAGS += ["--enable-logging=stderr", "--v=0"]

PROBE = """<script>
window.errors = [];
addEventListener("error", (e) => errors.push(String(e.message)));
addEventListener("load", async () => {
  const frame = document.querySelector("iframe").contentWindow, page = frame.document;
  const images = [...page.images];
  images.forEach((i) => (i.loading = "eager"));
  await Promise.all(images.map((i) => i.decode().catch(() => {})));
  const rows = () => [...page.querySelectorAll("#scores .sortable tbody tr")];
  const names = () => rows().map((row) => row.cells[0].innerText.trim());
  const head = page.querySelectorAll("#scores thead th")[1];
  const before = names();
  head.querySelector("button").click();
  const down = names(), sorted = head.getAttribute("aria-sort");
  head.querySelector("button").click();
  const up = names();
  const stops = page.querySelectorAll("a[href], button, summary, [tabindex='0']").length;
  const result = {
    errors, before, down, up, sorted, stops, images: images.length,
    loaded: images.filter((i) => i.naturalWidth > 0).length,
    overflow: page.documentElement.scrollWidth - frame.innerWidth,
  };
  document.body.dataset.result = encodeURIComponent(JSON.stringify(result));
});
</script>"""


def render(tmp_path, page, width):
    """The page in a frame of that width (a window cannot be narrower than 500 pixels)."""
    frame = page.read_text().replace("&", "&amp;").replace('"', "&quot;")
    outer = tmp_path / f"outer{width}.html"
    outer.write_text(
        f'<!doctype html><meta charset="utf-8">{PROBE}<body>'
        f'<iframe width="{width}" height="900" srcdoc="{frame}"></iframe>'
    )
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    for budget in (5000, 20000, 60000):
        # On a busy machine the page may be dumped before its pictures are decoded: more time then.
        done = subprocess.run(
            [*command, f"--virtual-time-budget={budget}", outer.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        found = re.search(r'data-result="([^"]+)"', done.stdout)
        if found:
            break
    assert found, done.stderr[-2000:]
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unquote(found.group(1))), complaints


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_in_a_browser(tmp_path, width):
    runs = [make_run(tmp_path / f"run_{ap}", ap=ap) for ap in (10.0, 30.0, 20.0)]
    runs.append(make_run(tmp_path / ("a_very_long_name_" * 8), kind="pretrain", ap=None))
    add_picture(runs[0], caption="pair", group="views")
    add_picture(runs[1], "p.png", caption="found", group="predictions")
    page = write_report(runs, tmp_path / "report.html", baseline="run_10.0")
    result, complaints = render(tmp_path, page, width)
    assert complaints == [] and result["errors"] == []
    assert result["images"] == result["loaded"] == 2
    assert [name.split()[0] for name in result["before"]] == ["run_10.0", "run_30.0", "run_20.0"]
    assert [name.split()[0] for name in result["down"]] == ["run_30.0", "run_20.0", "run_10.0"]
    assert result["up"] == result["down"][::-1] and result["sorted"] == "descending"
    assert result["overflow"] <= 0 and result["stops"] > 10
