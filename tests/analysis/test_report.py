"""The page: well formed, alone in the world, true to the runs, and safe with hostile names."""

import json
import re
from html.parser import HTMLParser

import pytest

from d2_unsupdet.analysis.report import build_page, main, write_report
from d2_unsupdet.analysis.runs import read_run, read_runs
from d2_unsupdet.analysis.tables import score_columns
from d2_unsupdet.errors import UserError
from tests.analysis.run_folders import add_picture, make_run

VOID = {"meta", "link", "img", "br", "wbr"}  # SVG closes its own


class Checker(HTMLParser):
    """Collects text, ids and addresses; fails on tags that do not nest."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.links, self.images = [], [], [], []
        self.text, self.tags = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img":
            self.images.append(attributes)
        self.links += [attributes[k] for k in ("href", "src", "action", "data") if k in attributes]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and "script" not in self.open:
            self.text.append(data)


@pytest.fixture
def runs(tmp_path):
    pretrain = make_run(tmp_path / "moco", kind="pretrain", ap=None, data="toy_unlabeled")
    weights = str(pretrain / "export.safetensors")
    make_run(tmp_path / "ours", ap=30.0, init_checkpoint=weights, init_coverage=0.987)
    make_run(tmp_path / "scratch", ap=24.0)
    add_picture(pretrain, caption="image 0 of the pairs", group="views")
    add_picture(tmp_path / "ours", "p.png", caption="image 7", group="predictions")
    return [tmp_path / name for name in ("moco", "ours", "scratch")]


def test_the_page_nests_and_needs_nothing_from_outside(runs):
    page = Checker(build_page(read_runs(runs), baseline="scratch"))
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:")) for link in page.links)
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert page.tags.count("script") == 1


def test_styles_and_script_load_nothing(runs):
    page = build_page(read_runs(runs))
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp|//[a-z]+\.", page)


def test_scores_deltas_weights_and_losses_are_there(runs):
    page = build_page(read_runs(runs), baseline="scratch")
    text = " ".join(Checker(page).text)
    assert "30.0" in text and "45.0" in text and "24.0" in text
    assert "▲ +6.0" in text and "▲ +9.0" in text and "baseline" in text
    assert "98.7%" in text and "1 min 01 s" in text
    assert "toy_unlabeled" in text and "max_iter: 200" in text and "2.14.1" in text
    assert re.search(r'data-value="moco">moco<', page)  # the weights' run by its name
    assert "All 3 scores" in text and "bbox/AP-cat" in text


def test_every_picture_has_a_size_and_an_alternative(runs):
    images = Checker(build_page(read_runs(runs))).images
    assert [i["alt"] for i in images] == ["image 0 of the pairs", "image 7"]
    assert all(i["loading"] == "lazy" and i["width"] == "60" for i in images)


def test_hostile_names_and_texts_stay_text(tmp_path):
    evil = "<script>alert(1)<!--\"'&"
    folder = make_run(
        tmp_path / evil, method=evil, data=[evil], init_checkpoint=evil, **{evil: evil}
    )
    (folder / "command.txt").write_text("</pre>" + evil)
    (folder / "config.yaml").write_text("</pre>" + evil)
    (folder / "metrics.json").write_text('{"iteration": 1, "bbox/<i>AP": 3, "<u>": 1}\n' * 2)
    add_picture(folder, caption=evil, group=evil)
    page = build_page(read_runs([folder]), title=evil)
    checked = Checker(page)
    assert checked.tags.count("script") == 1 and not {"i", "u"} & set(checked.tags)
    assert checked.images[0]["alt"] == evil
    assert "<!--" not in page.split("<script>")[0]


@pytest.mark.parametrize("content", [None, "", "{", '{"iteration": 3}\n', "[]\n\n1\n"])
def test_a_run_without_values_still_gives_a_page(tmp_path, content):
    folder = tmp_path / "young"
    folder.mkdir()
    if content is not None:
        (folder / "metrics.json").write_text(content)
    text = " ".join(Checker(build_page(read_runs([folder]))).text)
    assert "No run has been evaluated yet." in text
    assert "no metrics.json yet" in text or "holds no values yet" in text


def test_one_value_and_equal_values_draw(tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    (folder / "metrics.json").write_text('{"iteration": 0, "total_loss": 0.0, "bbox/AP": 0.0}\n')
    Checker(build_page(read_runs([folder, folder]), baseline=str(folder)))


def test_damaged_picture_costs_a_sentence(runs):
    (runs[0] / "pictures/views_000.png").write_bytes(b"not a picture")
    page = Checker(build_page(read_runs(runs)))
    assert len(page.images) == 1 and "views_000.png cannot be read" in " ".join(page.text)


def test_more_pictures_than_asked_for_are_counted(runs):
    for i in range(1, 4):
        add_picture(runs[0], f"views_00{i}.png", caption=str(i), group="views")
    page = Checker(build_page(read_runs(runs), max_pictures=2))
    assert len(page.images) == 3 and "2 more pictures (views)" in " ".join(page.text)


def test_unknown_baseline_names_the_nearest(runs):
    with pytest.raises(UserError, match="'scratch'"):
        build_page(read_runs(runs), baseline="scrach")


def test_command_line(runs, tmp_path, capsys):
    out = tmp_path / "new/folder/report.html"
    arguments = [*map(str, runs), "--out", str(out), "--title", "A & B"]
    assert main([*arguments, "--baseline", str(runs[2])]) == 0
    assert "<h1>A &amp; B</h1>" in out.read_text()
    assert str(out) in capsys.readouterr().out
    assert main([str(tmp_path / "nothing"), "--out", str(out)]) == 2
    assert "no run folder" in capsys.readouterr().err


def test_write_report_is_for_programs_too(runs, tmp_path):
    assert write_report(runs, tmp_path / "r.html").stat().st_size > 5000


def test_proposals_are_judged_by_recall(tmp_path):
    run = make_run(tmp_path / "a", kind="pretrain", ap=None)
    scores = {"AP": 1.0, "AP50": 3.0, "AR@1": 0.5, "AR@10": 4.0, "AR@100": 12.25}
    lines = [
        {"iteration": i, **{f"bbox_agnostic/{k}": v for k, v in scores.items()}} for i in (5, 9)
    ]
    (run / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    columns = score_columns([read_run(run)])
    assert columns == [f"bbox_agnostic/{name}" for name in ("AP", "AR@10", "AR@100")]
    page = build_page([read_run(run)])
    assert "Class-agnostic box AR@100" in page.split('id="curves"')[1]
