"""A page about run folders that strangers made: no string of any file becomes markup, no file
outside is read, and no file, however damaged, keeps the other runs from the page."""

import io
import json
import os
import re
import time
from html.parser import HTMLParser

import pytest
from PIL import Image

from d2_unsupdet.analysis.report import build_page, write_report
from d2_unsupdet.analysis.run_files import RunFile, read_files
from d2_unsupdet.analysis.runs import config_value, read_run, read_runs
from tests.analysis.run_folders import add_picture, make_run
from tests.analysis.test_safe_files import HOSTILE_YAML, within

MARKUP = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'&lt;-->"
REFRESH = '<meta http-equiv=refresh content="0;url=//example.org/?report"/>'  # as long as a hash
DEEP = "[" * 100_000
HUGE = "1" + "0" * 400


class Structure(HTMLParser):
    """Tags with the names of their attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, *(name for name, _ in attributes)))


def filled(folder, word, digest):
    """A run with `word` wherever a file of it can hold text."""
    make_run(
        folder,
        config=f"{json.dumps(word)}: {json.dumps([word])}\nmodel: {{_target_: {json.dumps(word)}}}",
        **{
            "kind": word,
            "method": word,
            "data": [word],
            "init_checkpoint": word,
            word: {word: [word]},
        },
        exports=[{"file": word.replace("/", ""), "sha256": digest}],
        result={"bbox": {"AP": 31.0, f"AP-{word}": 2.0, word: 3.0}, word: word},
        notes={"priors": {word: word}, word: word},
    )
    lines = [
        {"iteration": i, "total_loss": 1.0 + i, word: i, f"{word}/bbox/AP": i, f"loss_{word}": i}
        for i in range(4)
    ]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    told = {"packages": {word: word}, "missing": [{"name": word}, word], word: {word: [word]}}
    (folder / "environment.json").write_text(json.dumps(told))
    (folder / "command.txt").write_text(word)
    (folder / "stopped.json").write_text(json.dumps({"reason": word, "iteration": 3}))
    paper = {"paper": word, "table": word, "row": word, "values": {"bbox/AP": 30.0, word: 1.0}}
    (folder / "paper.json").write_text(json.dumps(paper))
    manifest = {"iteration": 9, "metric": word, "score": 3.0, "size": 5, "sha256": digest}
    (folder / "model_final.pth.json").write_text(json.dumps(manifest))
    for number, group in enumerate(("predictions", "failures", word)):
        texts = {"caption": word, "image": word, "alt": word, "value": 1.0, "iteration": number}
        add_picture(folder, f"{number}.png", group=group, **texts)
    return folder


def test_no_text_of_any_file_becomes_markup(tmp_path):
    """The page is built as with the same text of letters in place of what HTML knows."""
    assert len(REFRESH) == 64
    pages = []
    for place, letters in (("hostile", {}), ("harmless", str.maketrans("<>\"'&;", "qqqqqq"))):
        word, digest = MARKUP.translate(letters), REFRESH.translate(letters)
        names = [f"{i} {word}".replace("/", "") for i in range(2)]
        runs = read_runs([filled(tmp_path / place / name, word, digest) for name in names])
        assert [run.notes for run in runs] == [[], []]
        pages.append(build_page(runs, title=word))
    assert "<script>alert" not in pages[0] and "<img src=x" not in pages[0]
    assert pages[1].count(word) > 50
    assert Structure(pages[0]).tags == Structure(pages[1]).tags


def test_a_digest_is_nothing_but_a_digest(tmp_path):
    for digest in (REFRESH, "E" * 64, "e" * 63, "e" * 64 + "\n", 5):
        run = make_run(tmp_path / f"{hash(digest)}", exports=[{"file": "a", "sha256": digest}])
        (run / "model_final.pth.json").write_text(json.dumps({"sha256": digest}))
        page = build_page([read_run(run)])
        assert [file.sha256 for file in read_run(run).files[1:]] == [None, None]
        assert REFRESH not in page


def test_a_digest_from_elsewhere_is_text(tmp_path):
    run = read_run(make_run(tmp_path / "a"))
    run.files = [RunFile(tmp_path / "b", MARKUP, 1, MARKUP, MARKUP)]
    page = build_page([run])
    assert "<script>alert" not in page and page.count("&lt;script&gt;alert") == 3


def test_a_caption_stays_inside_its_attribute(tmp_path):
    run = make_run(tmp_path / "a")
    add_picture(run, caption='" onfocus="alert(1)" x="', group="views")
    (figure,) = re.findall(r"<figure class=\"shot\".*?</figure>", build_page([read_run(run)]))
    told = [tag for tag in Structure(figure).tags if tag[0] in ("a", "img")]
    assert told[0] == ("a", "href", "data-caption", "aria-label")
    assert not any(name.startswith("on") for tag in told for name in tag)


def test_the_policy_leaves_no_way_out(tmp_path):
    page = build_page([read_run(make_run(tmp_path / "a"))])
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.keys() == {
        *("default-src", "img-src", "style-src", "script-src", "base-uri", "form-action")
    }
    assert {rules[name] for name in ("default-src", "base-uri", "form-action")} == {"'none'"}
    assert rules["img-src"] == "data:"


DAMAGED = {
    "deep metrics": ("metrics.json", '{"iteration": 1, "x": %s}\n' % ("[" * 90_000)),
    "huge value": ("metrics.json", f'{{"iteration": 1, "total_loss": {HUGE}}}\n'),
    "huge step": ("metrics.json", f'{{"iteration": {HUGE}, "total_loss": 1}}\n'),
    "endless step": ("metrics.json", '{"iteration": 1e999, "total_loss": 1}\n'),
    "wide curve": (
        "metrics.json",
        '{"iteration": 0, "total_loss": 1e308}\n{"iteration": 1, "total_loss": -1e308}\n',
    ),
    "flat curve": (
        "metrics.json",
        '{"iteration": 0, "lr": 1.0}\n{"iteration": 1, "lr": 1.0000000000000002}\n'
        '{"iteration": 0, "b": 5e-324}\n{"iteration": 1, "b": 0}\n{"iteration": 2, "b": 1e-300}\n',
    ),
    "deep summary": ("summary.json", DEEP),
    "deep object": ("summary.json", '{"a":' * 900 + "1" + "}" * 900),
    "huge summary": (
        "summary.json",
        f'{{"seconds": {HUGE}, "iterations": {HUGE}, "result": {{"bbox": {{"AP": {HUGE}}}}}}}',
    ),
    "no time": ("summary.json", '{"seconds": NaN, "init_coverage": Infinity, "iterations": 1e999}'),
    "long time": ("summary.json", '{"seconds": 1.7e308, "init_coverage": 1e308}'),
    "half a pair": ("summary.json", '{"kind": "\\ud800", "exports": [{"file": "\\udfff"}]}'),
    "no name": ("summary.json", '{"exports": [{"file": "x\\u0000y", "sha256": 5}, {"file": ""}]}'),
    "long weights": ("summary.json", json.dumps({"init_checkpoint": "w" * 9000})),
    "no weights": ("summary.json", '{"init_checkpoint": "\\u0000"}'),
    "environment": ("environment.json", '{"packages": {"a": {"b": ["x"]}}, "missing": [[1], {}]}'),
    "deep environment": ("environment.json", DEEP),
    "paper": ("paper.json", f'{{"paper": [1], "values": {{"bbox/AP": {HUGE}}}}}'),
    "manifest": ("model_final.pth.json", DEEP),
    "manifest values": (
        "model_final.pth.json",
        f'{{"iteration": {HUGE}, "size": {HUGE}, "score": {HUGE}, "metric": ["x"]}}',
    ),
    "index": ("pictures/index.json", DEEP),
    "index names": ("pictures/index.json", '[{"file": "x\\u0000y"}, {"file": ["a"]}, {}]'),
    "index values": (
        "pictures/index.json",
        f'[{{"file": "a.png", "value": {HUGE}, "iteration": 1e308, "image": {{}}}}]',
    ),
    "config values": (
        "config.yaml",
        "train: {max_iter: .inf, seed: [1], init_checkpoint: {}}\n1: 2",
    ),
    "config weights": ("config.yaml", f"train: {{init_checkpoint: {'w' * 9000}}}"),
} | {f"config {name}": ("config.yaml", text) for name, text in HOSTILE_YAML.items()}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_does_not_keep_others_from_the_page(tmp_path, name):
    good, bad = make_run(tmp_path / "good"), make_run(tmp_path / "bad")
    add_picture(bad, "a.png", caption="a")
    file, text = DAMAGED[name]
    (bad / file).write_text(text)
    with within(20):
        page = write_report([good, bad], tmp_path / "report.html").read_text()
    assert ">good<" in page and ">bad<" in page and "30.0" in page


def test_values_that_no_run_has_are_named(tmp_path):
    run = make_run(tmp_path / "a")
    text = f'{{"iteration": 1, "total_loss": 1e308, "lr": {HUGE}, "ok": 1e99}}\n'
    (run / "metrics.json").write_text(text)
    run = read_run(run)
    assert run.curves == {"ok": [(1, 1e99)]}
    assert run.notes == [
        "Values that are not finite, or beyond 1e100, were left out of: lr, total_loss."
    ]


SECRET = "hunter2"


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"kind": SECRET, SECRET: SECRET, "iteration": 5}))
    run = make_run(tmp_path / "run")
    names = ["metrics.json", "summary.json", "environment.json", "config.yaml", "command.txt"]
    for name in names:
        (run / name).unlink()
    for name in (*names, "paper.json", "model_best.pth.json", "model_best.pth"):
        (run / name).symlink_to(secret)
    (run / "pictures").mkdir()
    (run / "pictures/index.json").symlink_to(secret)
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (run / "pictures/link.png").symlink_to(tmp_path / "secret.png")
    told = read_run(run)
    page = write_report([run], tmp_path / "report.html").read_text()
    assert SECRET not in page and '<figure class="shot"' not in page
    assert told.curves == told.summary == told.settings == {} and told.pictures == []
    assert "A picture outside the run folder was left out: link.png." in told.notes
    assert sum("is a link to a file outside the run folder" in note for note in told.notes) == 7
    (best,) = told.files
    assert (best.path.name, best.state, best.size) == ("model_best.pth", "elsewhere", None)
    assert "model_best.pth" in page and 'href="./' not in page


def test_a_link_to_a_folder_of_pictures_is_not_followed(tmp_path):
    other, run = make_run(tmp_path / "other"), make_run(tmp_path / "run")
    add_picture(other, caption=SECRET)
    (run / "pictures").symlink_to(other / "pictures")
    assert read_run(run).pictures == [] and "is a link" in read_run(run).notes[0]


def test_a_run_folder_may_be_a_link(tmp_path):
    run = make_run(tmp_path / "run")
    add_picture(run, caption="a")
    (run / "model_final.pth").write_bytes(b"12")
    (tmp_path / "newest").symlink_to(run)
    told = read_run(tmp_path / "newest")
    assert told.notes == [] and told.scores and len(told.pictures) == 1
    assert [file.state for file in told.files] == ["", ""]


def test_pipes_are_not_waited_for(tmp_path):
    run = make_run(tmp_path / "run")
    add_picture(run, caption="a")
    files = [
        "metrics.json",
        "summary.json",
        "config.yaml",
        "model_final.pth",
        "pictures/index.json",
    ]
    for name in (*files, "model_final.pth.json", "pictures/b.png", "paper.json"):
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)
    with within(20):
        page = build_page([read_run(run)])
    assert "metrics.json is no regular file" in page


def test_an_export_is_looked_for_in_the_run_only(tmp_path):
    (tmp_path / "passwd").write_text("root")
    run = make_run(tmp_path / "run")
    (export,) = read_files(run, {"exports": [{"file": str(tmp_path / "passwd")}]})[1:]
    assert (export.path, export.size, export.state) == (run / "passwd", None, "gone")


def test_only_pictures_of_three_formats_are_opened(tmp_path):
    """Pillow would start another program for some formats."""
    run = make_run(tmp_path / "run")
    add_picture(run, "a.png", caption="a")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="TIFF")
    (run / "pictures/a.png").write_bytes(buffer.getvalue())
    assert "a.png cannot be read" in build_page([read_run(run)])
    (run / "pictures/a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    (run / "pictures/index.json").write_text('[{"file": "a.eps"}]')
    assert "no PNG, JPEG or WebP" in read_run(run).notes[0]


def test_a_picture_that_says_to_be_gigantic_costs_a_sentence(tmp_path):
    run = make_run(tmp_path / "run")
    add_picture(run, "a.png", caption="a")
    path = run / "pictures/a.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height of the header
    path.write_bytes(content)
    assert "a.png cannot be read" in build_page([read_run(run)])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x0dIHDR")
    assert "a.png cannot be read" in build_page([read_run(run)])


def test_many_bad_pictures_do_not_fill_the_page(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "pictures").mkdir()
    index = [{"file": f"{i}.png"} for i in range(1000)]
    (run / "pictures/index.json").write_text(json.dumps(index))
    notes = read_run(run).notes
    assert len(notes) == 6 and notes[-1].startswith("995 more")


def test_times_before_and_after_all_times(tmp_path):
    for number, when in enumerate((-5e9, 8e9)):
        run = make_run(tmp_path / f"{number}")
        (run / "summary.json").unlink()
        os.utime(run / "metrics.json", (when, when))
        told = read_run(run)
        assert 0 <= told.logged <= time.time()
        assert "80" in build_page([told])


def test_times_whose_sum_is_endless(tmp_path):
    for number in range(2):
        run = make_run(tmp_path / f"{number}")
        (run / "summary.json").write_text('{"seconds": 1.7e308}')
    page = build_page(read_runs([tmp_path / "0", tmp_path / "1"]))
    assert "0" * 50 not in page


def test_config_of_a_bomb_is_shown_but_not_built(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "config.yaml").write_text(HOSTILE_YAML["bomb"])
    told = read_run(run)
    with within(5):
        assert config_value(told, "a.x") is None
    assert "*a, *a" in build_page([told])


@pytest.mark.parametrize(
    "name", ["x{}", "bbox/AP{}", "bbox{}/AP", "knn/x{}", "feature_std_{}", "loss_{}"]
)
def test_ten_thousand_names_do_not_fill_the_page(tmp_path, name):
    run = make_run(tmp_path / "a")
    many = {name.format(i): 1.0 for i in range(10_000)}
    lines = [json.dumps({"iteration": i, **many}) for i in range(3)]
    (run / "metrics.json").write_text("\n".join(lines) + "\n" + (run / "metrics.json").read_text())
    (run / "summary.json").write_text(json.dumps({"result": {"bbox": many}}))
    started = time.monotonic()
    page = build_page(read_runs([run]))
    assert len(page) < 3_000_000 and time.monotonic() - started < 20
    assert "metrics.json holds more names than are read" in page
    assert "Total loss" in page
    if name == "x{}":
        assert "300 more curves stand only in metrics.json" in page


def test_names_of_a_rich_run_are_all_read(tmp_path):
    run = make_run(tmp_path / "a")
    rich = {f"bbox/AP-class {i}": 1.0 for i in range(1203)} | {f"loss_{i}": 1.0 for i in range(150)}
    with (run / "metrics.json").open("a") as file:
        file.write(json.dumps({"iteration": 1000, **rich}) + "\n")
    assert rich.keys() <= read_run(run).curves.keys() and not read_run(run).notes
