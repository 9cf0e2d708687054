"""datasets/subset_ids.py: lists that a run takes, equal to the subsets drawn without them."""

import json

import pytest

from d2_unsupdet.data import get_dataset
from tests.scripts import load_script

DATA = "toy_val:images=40"


@pytest.fixture(scope="module")
def script():
    return load_script("datasets/subset_ids.py")


def test_lists_of_sizes_and_seeds_are_the_runs_own_subsets(script, tmp_path, capsys):
    script.main([DATA, "10%", "30%", "--seeds", "0", "1", "--out", str(tmp_path)])
    files = {path.name: path for path in tmp_path.iterdir()}
    stem = "toy_val_images_40"
    assert set(files) == {f"{stem}_{p}pct_seed{s}.json" for p in (10, 30) for s in (0, 1)}
    assert f"{stem}_30pct_seed1.json: 12 of 40 images" in capsys.readouterr().out
    ids = {}
    for percent in (10, 30):
        for seed in (0, 1):
            path = files[f"{stem}_{percent}pct_seed{seed}.json"]
            drawn = get_dataset(DATA, subset=f"{percent}%@seed{seed}")
            listed = get_dataset(DATA, subset=f"ids:{path}")
            assert drawn == listed and len(drawn) == percent * 40 // 100
            ids[percent, seed] = set(json.loads(path.read_text())["ids"])
    assert ids[10, 0] < ids[30, 0] and ids[10, 0] != ids[10, 1]


def test_without_sizes_those_that_papers_report(script, tmp_path):
    script.main([DATA, "--out", str(tmp_path)])
    percents = {path.stem.split("_")[-2] for path in tmp_path.iterdir()}
    assert percents == {f"{p}pct" for p in (1, 2, 5, 10, 30, 50, 70)}
