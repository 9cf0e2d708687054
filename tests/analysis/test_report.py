"""The page: well formed, alone in the world, true to the runs, and safe with hostile names."""

import base64
import hashlib
import io
import json
import os
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from d2_unsupdet.analysis.figures import encode
from d2_unsupdet.analysis.report import build_page, main, write_report
from d2_unsupdet.analysis.run_pictures import Picture
from d2_unsupdet.analysis.runs import read_run, read_runs
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


def test_the_page_nests_and_needs_nothing_from_outside(runs):
    page = Checker(build_page(read_runs(runs), baseline="scratch"))
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:", "./")) for link in page.links)
    assert not [link for link in page.links if link.startswith("./")]  # it has no place yet
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert page.tags.count("script") == 1


def test_styles_and_script_load_nothing(runs):
    page = build_page(read_runs(runs))
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp|//[a-z]+\.", page)
    assert not re.search(r"<[a-z][^>]* (style|on[a-z]+)=", page)  # the policy would forbid it
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    for tag in ("style", "script"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_scores_deltas_weights_and_losses_are_there(runs):
    page = build_page(read_runs(runs), baseline="scratch")
    text = " ".join(Checker(page).text)
    assert "30.0" in text and "45.0" in text and "24.0" in text
    assert "+6.0" in text and "+9.0" in text and "baseline" in text
    assert "1 min 01 s" in text
    assert "toy_unlabeled" in text and "max_iter: 200" in text and "2.14.1" in text
    assert re.search(r'data-value="moco">moco<', page)  # the weights' run by its name
    assert "All 3 scores" in text and "bbox/AP-cat" in text


def test_every_picture_has_a_size_and_an_alternative(runs):
    images = Checker(build_page(read_runs(runs))).images
    assert [i["alt"] for i in images] == ["image 7", "image 0 of the pairs"]
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
    assert len(page.images) == 3 and "2 more pictures are only in" in " ".join(page.text)


def test_unknown_baseline_names_the_nearest(runs):
    with pytest.raises(UserError, match="'scratch'"):
        build_page(read_runs(runs), baseline="scrach")


def test_command_line(runs, tmp_path, capsys):
    out = tmp_path / "new/report.html"
    arguments = [*map(str, runs), "--out", str(out), "--title", "A & B"]
    main([*arguments, "--baseline", str(runs[2])])
    assert "<h1>A &amp; B</h1>" in out.read_text()
    assert str(out) in capsys.readouterr().out
    with pytest.raises(UserError, match="no run folder"):
        main([str(tmp_path / "nothing"), "--out", str(out)])
    with pytest.raises(UserError, match="--otu=x; --help lists"):
        main([*arguments, "--otu=x"])


def test_write_report_is_for_programs_too(runs, tmp_path):
    assert write_report(runs, tmp_path / "r.html").stat().st_size > 5000


def test_an_environment_is_told_in_words(tmp_path):
    run = make_run(tmp_path / "a")
    missing = [{"name": "W&B logging", "module": "wandb", "command": "pip"}]
    told = {"packages": {"torch": "2.14.1", "wandb": None}, "missing": missing, "devices": ["cpu"]}
    (run / "environment.json").write_text(json.dumps(told))
    page = build_page([read_run(run)])
    text = " ".join(Checker(page).text)
    assert "Not installed: W&B logging." in text and "{'" not in page and "None" not in text


def test_configs_of_seeds_are_told_once(tmp_path):
    folders = [make_run(tmp_path / f"a_s{i}", seed=i, config="secret: 7") for i in range(3)]
    page = build_page(read_runs(folders))
    assert page.count("secret: 7") == 1
    assert page.count("<dt>train.seed</dt>") == 2


def test_pictures_of_one_image_stand_side_by_side(tmp_path):
    runs = [make_run(tmp_path / name, config=f"lr: {name}") for name in "ab"]
    for run in runs:
        add_picture(run, "p0.png", caption="dog.jpg", group="predictions", image="dog.jpg")
        for step in (20, 0, 10):
            name = f"e{step}.png"
            entry = {"group": "prior_evolution", "image": "cat.jpg", "iteration": step}
            add_picture(run, name, caption=f"at {step}", **entry)
        for loss in (1.0, 3.0, 2.0):
            name = f"f{loss:g}.png"
            value = loss + 0.5 * (run.name == "b")
            add_picture(run, name, caption=f"loss {value}", group="failures", value=value)
    page = build_page(read_runs(runs))
    (compared,) = re.findall(r'class="compare"><h4>dog.jpg</h4>(.*?)</div>', page)
    assert re.findall(r"<figcaption>([^<]+)<", compared) == ["a", "b"]
    first, second = re.findall(r'class="evolution"><h4>cat.jpg.*?</h4>(.*?)</div>', page)
    assert re.findall(r"<figcaption>([^<]+)<", first) == [
        f"step {step}: at {step}" for step in (0, 10, 20)
    ]
    (worst,) = re.findall(r'class="shots sorted">(.*?)</div>', page)
    values = [float(v) for v in re.findall(r'data-value="([^"]+)"', worst)]
    assert values == sorted(values, reverse=True) and len(values) == 6


def test_files_with_their_hashes_and_what_became_of_them(tmp_path):
    export = tmp_path / "r/export.safetensors"
    run = make_run(
        export.parent, exports=[{"file": "/moved/export.safetensors", "sha256": "e" * 64}]
    )
    export.write_bytes(b"12345")
    for name, size in (
        ("model_final.pth", 3),
        ("model_best.pth", 3),
        ("model_0000099.pth", 2000000),
    ):
        told = {"size": size, "sha256": name[6] * 64, "iteration": 99}
        (run / f"{name}.json").write_text(json.dumps(told))
    (run / "model_final.pth").write_bytes(b"123")
    (run / "model_best.pth").write_bytes(b"1234")
    page = write_report([run], tmp_path / "pages/report.html").read_text()
    table = re.search(r'<table class="plain files">(.*?)</table>', page).group(1)
    rows = re.findall(r"<tr><th.*?</tr>", table)[1:]
    assert 'href="./../r/config.yaml"' in rows[0]
    assert hashlib.sha256((run / "config.yaml").read_bytes()).hexdigest() in rows[0]
    assert 'href="./../r/export.safetensors"' in rows[1] and "e" * 64 in rows[1]
    assert "end of training" in rows[2] and "f" * 64 in rows[2] and "changed" not in rows[2]
    assert "changed since" in rows[3] and "b" * 64 in rows[3]
    assert "gone" in rows[4] and "href" not in rows[4] and "2.0 MB" in rows[4]


def test_many_large_pictures_share_what_a_page_may_hold(tmp_path, monkeypatch):
    run, noise = make_run(tmp_path / "a"), np.random.default_rng(0)
    (run / "pictures").mkdir()
    for i in range(3):
        pixels = noise.integers(0, 255, (300, 900, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(run / f"pictures/{i}.png")
    picture = read_run(run).pictures[0]
    large, small = (encode(picture, share=share) for share in (10**6, 10_000))
    assert large[2:] == (900, 300) and small[2:] == (700, 233)
    assert len(small[0]) < 0.6 * len(large[0])
    whole = len(build_page([read_run(run)]))
    assert whole > 3 * len(large[0])
    monkeypatch.setattr("d2_unsupdet.analysis.figures._BYTES", 30_000)
    assert whole - len(build_page([read_run(run)])) > len(large[0])


def test_labels_and_wildcards_on_the_command_line(tmp_path):
    for i in range(2):
        make_run(tmp_path / f"r{i}", config=f"lr: {i}")
    out = str(tmp_path / "page.html")
    main([f"mine={tmp_path}/r*", "--out", out, "--baseline", "mine"])
    assert "2 runs of one setting" in (tmp_path / "page.html").read_text()
    with pytest.raises(UserError, match="no run folder"):
        main([f"mine={tmp_path}/q*", "--out", out])


def test_a_folder_without_a_run_is_a_sentence(tmp_path):
    make_run(tmp_path / "out/real")
    other = tmp_path / "out/yolo"
    other.mkdir()
    (other / "train.json").write_text("{}")
    out = str(tmp_path / "page.html")
    told = r"yolo' is no run: no config.yaml, metrics.json or summary.json"
    with pytest.raises(UserError, match=told):
        main([str(tmp_path / "out/real"), str(other), "--out", out])
    main([f"{tmp_path}/out/*", "--out", out])  # what stands between runs is passed over
    with pytest.raises(UserError, match=told):
        main([f"{tmp_path}/out/y*", "--out", out])
    for name in ("config.yaml", "metrics.json", "summary.json"):
        for old in other.iterdir():
            old.unlink()
        (other / name).write_text("{}")
        main([str(other), "--out", out])


def test_a_mistyped_place_makes_no_folders(runs, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        main([str(runs[0]), "--out", str(tmp_path / "nope/nope/x.html")])
    assert not (tmp_path / "nope").exists()


def test_one_score_has_as_many_digits_everywhere(tmp_path):
    run = make_run(tmp_path / "a", ap=0.0007)
    told = {"size": 1, "score": 0.0007, "metric": "bbox/AP", "sha256": "a" * 64, "iteration": 9}
    (run / "model_best.pth.json").write_text(json.dumps(told))
    page = build_page([read_run(run)])
    assert 'data-last="0.0007"' in page  # in the legend
    assert "best score: bbox/AP 0.0007<" in page and '<div class="big">0.0007<' in page
    rows = page.split("All 3 scores")[1].split("</table>")[0]
    assert re.findall(r"<td>([^<]+)<", rows) == ["0.0007", "1.0000", "0.0010"]


def test_each_config_in_the_table_of_differences_is_the_settings_own(tmp_path):
    runs = [make_run(tmp_path / name, config=f"rate: of_{name}") for name in "ab"]
    table = build_page(read_runs(runs)).split('class="apart"')[1].split("</table>")[0]
    found = re.findall(r'data-value="([ab])">.*?data-value="(of_[ab])"', table)
    assert found == [("a", "of_a"), ("b", "of_b")]
    seeds = [make_run(tmp_path / f"s{i}", seed=i + 5) for i in range(2)]
    page = build_page(read_runs(seeds))
    assert "<dt>train.seed</dt><dd>6</dd>" in page and "<dd>5</dd>" not in page


def test_a_summary_is_told_in_words(tmp_path):
    notes = {"priors": {"generation": 2, "sha256": "c" * 64}, "other": 3}
    run = make_run(tmp_path / "a", init_coverage=1.0, notes=notes)
    text = " ".join(Checker(build_page([read_run(run)])).text)
    assert "share of them used 100.0%" in text and "boxes to find, generation 2" in text
    assert "notes.priors" not in text and "other 3" in text


def test_a_run_that_is_quieter_than_before_is_not_called_running(tmp_path):
    run = make_run(tmp_path / "a", steps=4)
    (run / "summary.json").unlink()
    lines = [json.dumps({"iteration": i, "total_loss": 1.0, "time": 0.1}) for i in (19, 39)]
    (run / "metrics.json").write_text("\n".join(lines))

    def said(seconds):
        then = time.time() - seconds
        os.utime(run / "metrics.json", (then, then))
        return build_page([read_run(run)])

    assert 'class="state running">running, 40 of 200' in said(20)
    page = said(120)  # it has written a line every 2 seconds
    assert 'class="state silent">running or stopped, 40 of 200 steps, no line for 2 min' in page
    assert "before one every 2 s" in page and "state running" not in page
    assert "not finished" in said(2000)
    lines = [json.dumps({"iteration": i, "total_loss": 1.0, "time": 60.0}) for i in (19, 39)]
    (run / "metrics.json").write_text("\n".join(lines))
    assert "state running" in said(2000)  # a slow run


def test_what_stopped_a_run_is_told(tmp_path):
    run = make_run(tmp_path / "a", steps=4)
    (run / "summary.json").unlink()
    told = {"reason": "12 of 40 images <could> not be used.", "iteration": 79}
    (run / "stopped.json").write_text(json.dumps(told))
    text = " ".join(Checker(build_page([read_run(run)])).text)
    assert "not finished, 80 of 200 steps, stopped: 12 of 40 images <could> not be used." in text


def test_running_and_stopped_runs_say_how_far_they_are(tmp_path):
    for name in ("now", "old"):
        (make_run(tmp_path / name, steps=4, config=f"a: {name}") / "summary.json").unlink()
    os.utime(tmp_path / "old/metrics.json", (1e9, 1e9))
    text = " ".join(Checker(build_page(read_runs([tmp_path / "now", tmp_path / "old"]))).text)
    assert "running, 80 of 200 steps" in text
    assert "not finished, 80 of 200 steps, last heard of on 0" in text


def test_what_all_captions_of_an_image_say_is_left_out(tmp_path):
    run = make_run(tmp_path / "a")
    for step in (0, 1000):
        caption = f"dog.jpg: attention of it, after {step} steps"
        entry = {"group": "eigen", "image": "dog.jpg", "iteration": step}
        add_picture(run, f"e{step}.png", caption=caption, **entry)
    page = build_page([read_run(run)])
    assert "<figcaption>step 0<" in page and "<figcaption>step 1,000<" in page
    assert 'data-caption="dog.jpg: attention of it, after 1000 steps"' in page


def test_an_image_of_one_run_has_no_row_of_its_own(tmp_path):
    runs = [make_run(tmp_path / name, config=f"lr: {name}") for name in "ab"]
    for run in runs:
        add_picture(run, "p.png", caption="dog.jpg", group="predictions", image="dog.jpg")
    add_picture(runs[0], "q.png", caption="cat.jpg", group="predictions", image="cat.jpg")
    page = build_page(read_runs(runs))
    assert page.count('<div class="compare">') == 1
    assert re.search(r'<div class="shots">.*?cat\.jpg <span class="tag">a</span>', page)


@pytest.mark.parametrize("webp", [True, False])
def test_large_pictures_become_smaller_and_stay_pictures(tmp_path, monkeypatch, webp):
    noise = np.random.default_rng(0).integers(0, 255, (60, 2400, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(noise).save(path)
    monkeypatch.setattr("d2_unsupdet.analysis.figures.features.check", lambda name: webp)
    data, kind, width, height = encode(Picture(path, "a", "views"))
    assert (kind, width, height) == ("webp" if webp else "jpeg", 1200, 30)
    assert len(data) < path.stat().st_size / 4
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (1200, 30)
