"""Scores and curves in the page: what is one setting, what is compared, what is drawn."""

import json
import re

import pytest

from d2_unsupdet.analysis.charts import series
from d2_unsupdet.analysis.report import build_page
from d2_unsupdet.analysis.runs import read_run, read_runs
from d2_unsupdet.analysis.scores import score_columns
from d2_unsupdet.analysis.settings import group_settings
from tests.analysis.run_folders import make_run


def scores_of(page):
    """The section with the table of settings."""
    return page.split('<section id="scores"')[1].split("</section>")[0]


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


def test_seeds_are_one_row_with_mean_spread_and_count(tmp_path):
    folders = [make_run(tmp_path / f"ours_s{i}", seed=i, ap=30.0 + 2 * i) for i in range(2)]
    folders += [
        make_run(tmp_path / f"scratch_s{i}", seed=i, ap=29.9, config="lr: 1") for i in range(2)
    ]
    page = build_page(read_runs(folders), baseline="scratch")
    cell = re.findall(r'<tr><th [^>]*data-value="ours">.*?</th>(<td.*?</td>)', scores_of(page))[0]
    assert 'data-value="31.0"' in cell and "± 1.4" in cell
    assert "≈ +1.1" in cell and "within the spread" in cell  # less than the seeds' own spread
    assert "4 runs of 2 settings" in page and "Each of the 4 seeds" in page


def test_a_difference_of_several_seeds_has_a_colour_and_that_of_one_has_none(tmp_path):
    seeds = [make_run(tmp_path / f"{n}_s{i}", seed=i, ap=ap + i, config=f"lr: {ap}")
             for n, ap in (("ours", 30.0), ("scratch", 20.0)) for i in range(2)]  # fmt: skip
    page = build_page(read_runs(seeds), baseline="scratch")
    assert page.count('<span class="delta up">▲ +10.0</span>') == 2  # card and table
    page = build_page(read_runs(seeds[:3]), baseline="scratch_s0")
    assert "delta up" not in page and "▲" not in page.split("</script>")[1]
    assert page.count(">+10.5<") == 2 and "of a single run" in page
    assert "how much seeds alone make is unknown" in page


def test_the_best_of_a_column_is_bold(runs):
    cells = re.findall(
        r'<td class="best" data-value="([^"]+)"', scores_of(build_page(read_runs(runs)))
    )
    assert cells == ["30.0", "45.0"]


def test_a_class_with_a_slash_is_no_metric(tmp_path):
    folders = []
    for name, ap in (("a", 30.0), ("b", 20.0)):
        folders.append(make_run(tmp_path / name, ap=ap, config=f"lr: {ap}"))
        log = folders[-1] / "metrics.json"
        log.write_text(log.read_text().replace("bbox/AP-cat", "bbox/AP-Cabinet/shelf"))
    page = build_page(read_runs(folders))
    cards = page.split('class="cards">')[1].split("</section>")[0]
    assert "Best box AP<" in cards and "shelf" not in cards
    table, rest = scores_of(page).split("<details>", 1)
    assert "shelf" not in table and ">bbox/AP-Cabinet/shelf<" in rest


def on(names, evaluator="build_evaluator", **more):
    """YAML of a config whose scores are of this test set."""
    loader = {"test": {"dataset": {"names": names, **more}}, "evaluator": {"_target_": evaluator}}
    return f"dataloader: {json.dumps(loader)}"


def test_scores_of_two_test_sets_are_not_compared(tmp_path):
    folders = [
        make_run(tmp_path / name, ap=ap, config=f"{on(test)}\nlr: {ap}")
        for name, ap, test in (("a", 30.0, "own"), ("b", 24.0, "own"), ("c", 90.0, "voc_test"))
    ]
    result = {"bbox": {"AP": 90.0}, "bbox_coco": {"AP": 70.0}}
    (folders[2] / "summary.json").write_text(json.dumps({"kind": "finetune", "result": result}))
    page = build_page(read_runs(folders), baseline="b").replace("<wbr>", "")
    scores = scores_of(page)
    titles = re.findall(r"<h3>([^<]+)</h3>", scores)
    assert titles == ["On own", "On voc_test, VOC&#x27;s metric and COCO&#x27;s"]
    first, second = scores.split("<h3>")[1:]
    assert "+6.0" in first and "delta" not in second
    assert 'class="best" data-value="30.0"' in first and "best" not in second
    assert "Box (VOC) AP<" in second and "Box (COCO) AP<" in second and "(VOC)" not in first
    cards = page.split('class="cards">')[1].split("</div><h3")[0]
    assert "Best box AP on own" in cards and "Box (VOC) AP on voc_test" in cards
    charts = re.findall(r"<figcaption><span>([^<]+)<", page.split('id="curves"')[1])
    assert charts[0] == "Box AP on own" and charts[1].startswith("Box (VOC) AP on voc_test")
    strips = page.split('class="strips">')[1].split("</ol>")[0]
    assert strips.count("<li data-s=") == 2


def test_folded_curves_of_two_test_sets_are_charts_of_their_own(tmp_path):
    folders = [make_run(tmp_path / n, config=on(n)) for n in ("one", "two")]
    for folder in folders:
        log = folder / "metrics.json"
        log.write_text(log.read_text().replace("bbox/AP-cat", "bbox/APl"))
    folded = build_page(read_runs(folders)).split("<summary>More curves")[1]
    charts = re.findall(r"<figcaption><span>([^<]+)<", folded.split("</details>")[0])
    assert charts == ["Box APl on one", "Box APl on two"]


def test_scores_without_classes_are_not_said_to_have_some(tmp_path):
    run = make_run(tmp_path / "a", config=on("own"))
    assert "All 3 scores, classes included, on own<" in build_page([read_run(run)])
    log = run / "metrics.json"
    log.write_text(log.read_text().replace("bbox/AP-cat", "bbox/APl"))
    assert "All 3 scores on own<" in build_page([read_run(run)])


@pytest.mark.parametrize(
    "other",
    [on("own", subset="10%"), on("own", evaluator="a.Other"), on("own2")],
)
def test_what_else_keeps_scores_apart(tmp_path, other):
    folders = [
        make_run(tmp_path / "a", ap=30.0, config=on("own")),
        make_run(tmp_path / "b", ap=20.0, config=other),
    ]
    page = build_page(read_runs(folders), baseline="a")
    assert scores_of(page).count('class="score-table"') == 2 and 'class="best"' not in page
    assert "delta" not in page.split("</script>")[1]


def test_seeds_scored_on_two_test_sets_are_said(tmp_path):
    folders = [make_run(tmp_path / name, config=on(name)) for name in ("a", "b")]
    page = build_page(read_runs(folders), labels={"a": "mine", "b": "mine"})
    assert "The runs of mine were scored on a and b" in page


def test_bands_are_lowest_and_highest(tmp_path):
    for i in range(2):
        make_run(tmp_path / f"a_s{i}", seed=i, ap=30.0 + 2 * i)
    settings = group_settings(read_runs(sorted(tmp_path.iterdir())))
    (line,) = series(settings, "bbox/AP")
    assert line.points[-1] == (200, 31.0) and line.runs == 2
    assert line.low[-1] == (200, 30.0) and line.high[-1] == (200, 32.0)
    assert 'class="band' in build_page(read_runs(sorted(tmp_path.iterdir())))


def test_a_seed_that_is_behind_ends_the_mean_where_it_is(tmp_path):
    make_run(tmp_path / "a_s0", seed=0)
    make_run(tmp_path / "a_s1", seed=1, steps=4)
    (line,) = series(group_settings(read_runs(sorted(tmp_path.iterdir()))), "bbox/AP")
    assert [step for step, _ in line.points] == [40, 80]


def test_losses_of_two_methods_do_not_share_a_chart(tmp_path):
    for name in ("MoCoV2", "SimSiam"):
        make_run(tmp_path / name, kind="pretrain", ap=None, method=name, config=f"m: {name}")
    page = build_page(read_runs(sorted(tmp_path.iterdir())))
    titles = re.findall(r"<figcaption><span>([^<]+)<", page)
    assert titles == ["Total loss, MoCoV2", "Total loss, SimSiam", "Learning rate"]


def test_the_spread_of_features_has_a_chart(tmp_path):
    run = make_run(tmp_path / "a", kind="pretrain", ap=None)
    lines = [{"iteration": i, "total_loss": 1.0, "image/feature_std": 0.1 * i} for i in range(3)]
    (run / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    page = build_page([read_run(run)]).replace("<wbr>", "")
    assert "<figcaption><span>image/feature_std<" in page


def test_the_paper_stands_beside_ours(runs):
    paper = {
        "paper": "P",
        "table": "Table 3",
        "row": "10 %",
        "values": {"bbox/AP50": 58.5, "x": "y"},
    }
    (runs[1] / "paper.json").write_text(json.dumps(paper))
    page = build_page(read_runs(runs))
    cells = re.findall(r'<tr><th [^>]*data-value="ours">.*?</tr>', scores_of(page))[0]
    assert "P, Table 3, 10 %" in cells and cells.count("ref. 58.5") == 1
    (runs[1] / "paper.json").write_text("[")
    assert "paper.json is not a JSON object" in build_page(read_runs(runs))


def test_small_scores_do_not_become_zero(tmp_path):
    make_run(tmp_path / "a", ap=0.031)
    make_run(tmp_path / "b", ap=0.012, config="lr: 1")
    page = build_page(read_runs([tmp_path / "a", tmp_path / "b"]), baseline="b")
    assert ">0.03<" in page and ">0.01<" in page and "+0.02" in page
