"""Curves of several runs: common points, seeds, the first time a score is reached."""

import json

import numpy as np
import pytest
from PIL import Image

from d2_unsupdet.analysis.convergence import convergence, group_runs
from d2_unsupdet.errors import UserError
from tests.scripts import load_script


def make(folder, scores, *, images=None, batch=None):
    """`scores` by iteration, counted from 0 as runs log them."""
    folder.mkdir()
    lines = [json.dumps({"iteration": i, "bbox/AP": ap}) for i, ap in scores.items()]
    (folder / "metrics.json").write_text("\n".join(lines))
    if images:
        (folder / "summary.json").write_text(json.dumps({"images": images}))
    if batch:
        text = f"dataloader:\n  train:\n    total_batch_size: {batch}\n"
        (folder / "config.yaml").write_text(text)
    return folder


def test_points_that_all_seeds_have(tmp_path):
    a = make(tmp_path / "a", {99: 10.0, 199: 20.0, 299: 40.0})
    b = make(tmp_path / "b", {99: 20.0, 249: 25.0, 299: 30.0})
    found = convergence({"both": [a, b]}, reach=15.0)["both"]
    assert found.x.tolist() == [100, 300]  # steps done, not their number from 0
    assert found.values.tolist() == [[10, 40], [20, 30]]
    # a: halfway between 100 and 200; b: at its first evaluation already
    assert found.reached.tolist() == [150, 100]
    told = found.to_json()
    assert told["mean"] == [15, 35] and told["last"] == 35 and told["reached_mean"] == 125
    assert told["last_std"] == pytest.approx(np.std([40, 30], ddof=1), abs=1e-4)


def test_a_score_that_one_seed_never_reaches_has_no_mean(tmp_path):
    a, b = make(tmp_path / "a", {9: 10.0, 19: 30.0}), make(tmp_path / "b", {9: 1.0, 19: 2.0})
    told = convergence({"both": [a, b]}, reach=20.0)["both"].to_json()
    assert told["reached"] == [15.0, None] and told["reached_mean"] is None


@pytest.mark.parametrize("axis, x", [("images", 800.0), ("epochs", 16.0)])
def test_other_units(tmp_path, axis, x):
    run = make(tmp_path / "a", {99: 10.0}, images=50, batch=8)
    assert convergence({"a": [run]}, axis=axis)["a"].x.tolist() == [x]


def test_labels_and_wildcards_group_seeds(tmp_path):
    for name in ("ours_s0", "ours_s1", "scratch"):
        make(tmp_path / name, {9: 1.0})
    groups = group_runs([f"ours={tmp_path}/ours_s*", f"{tmp_path}/scratch"])
    assert {k: [p.name for p in v] for k, v in groups.items()} == {
        "ours": ["ours_s0", "ours_s1"],
        "scratch": ["scratch"],
    }
    with pytest.raises(UserError, match="given twice"):
        group_runs([f"ours={tmp_path}/ours_s*", f"ours={tmp_path}/ours_s0"])
    with pytest.raises(UserError, match="no run folder"):
        group_runs([f"ours={tmp_path}/theirs_*"])


def test_what_is_missing_is_a_sentence(tmp_path):
    a, b = make(tmp_path / "a", {9: 1.0}), make(tmp_path / "b", {19: 1.0})
    with pytest.raises(UserError, match="never scored at the same time"):
        convergence({"both": [a, b]})
    with pytest.raises(UserError, match="no score 'bbox/AP5' yet. Did you mean 'bbox/AP'"):
        convergence({"a": [a]}, score="bbox/AP5")
    with pytest.raises(UserError, match="no readable config.yaml"):
        convergence({"a": [a]}, axis="images")
    with pytest.raises(UserError, match="has not told its number of images"):
        convergence({"a": [make(tmp_path / "c", {9: 1.0}, batch=4)]}, axis="epochs")


def test_the_tool_draws_and_tells(tmp_path, capsys):
    tool = load_script("tools/analyze.py")
    for seed in range(3):
        scores = {i: 30 * (1 - np.exp(-i / 200)) + seed for i in range(49, 500, 50)}
        make(tmp_path / f"ours_s{seed}", scores)
    make(tmp_path / "scratch", {i: 0.04 * i for i in range(49, 500, 50)})
    out = tmp_path / "out"
    runs = [f"ours={tmp_path}/ours_s*", f"{tmp_path}/scratch"]
    tool.main(["curves", *runs, "--reach", "25", "--out", str(out)])
    said = capsys.readouterr().out
    assert "ours: bbox/AP 28.53 ± 1.00 after 500 iterations; 25 reached after" in said
    assert "scratch: bbox/AP 19.96 after 500 iterations; 25 reached by 0 of 1 runs" in said
    assert Image.open(out / "curves.png").width > 600
    told = json.loads((out / "curves.json").read_text())
    assert list(told["curves"]) == ["ours", "scratch"] and told["settings"]["reach"] == 25
