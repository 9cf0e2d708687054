"""Seeds are told from settings by the configs, whatever the folders are called."""

import json

import pytest

from d2_unsupdet.analysis.runs import read_run, read_runs
from d2_unsupdet.analysis.settings import (
    _told,
    differences,
    find_setting,
    fingerprint,
    group_settings,
    repeated,
    seed_of,
    without_seed,
)
from d2_unsupdet.errors import UserError
from tests.analysis.run_folders import make_run

LR = "optimizer: {lr: %g}\ndataloader: {train: {seed: %d, num_workers: %d, "
LR += "dataset: {subset: '50@seed%d+every_class'}}}\n"


def finetune(folder, seed, lr=0.1, **more):
    return make_run(folder, seed=seed, config=LR % (lr, seed, seed, seed), **more)


def grouped(*folders):
    return {s.name: [r.name for r in s.runs] for s in group_settings(read_runs(list(folders)))}


def test_seeds_of_one_setting_and_another_rate(tmp_path):
    folders = [finetune(tmp_path / f"ours_s{i}", i, ap=30.0 + i) for i in range(3)]
    folders.append(finetune(tmp_path / "high_s0", 0, lr=0.4))
    assert grouped(*folders) == {
        "ours": ["ours_s0", "ours_s1", "ours_s2"],
        "high_s0": ["high_s0"],
    }
    ours, high = group_settings(read_runs(folders))
    assert ours.mean("bbox/AP") == pytest.approx(31.0) and ours.mean("segm/AP") is None
    assert [seed_of(run) for run in ours.runs] == [0, 1, 2]
    assert differences([ours, high]) == {"optimizer.lr": ["0.1", "0.4"]}


def test_weights_count_as_the_config_that_made_them(tmp_path):
    """Two pretrainings in folders of any name: of seed 0 and 1, and one of another length."""
    made = {}
    for name, seed, text in (("x", 0, "a: 1"), ("y", 1, "a: 1"), ("z", 1, "a: 2")):
        made[name] = make_run(tmp_path / name, seed=seed, kind="pretrain", ap=None, config=text)
    folders = [
        finetune(tmp_path / f"from_{n}", i, init_checkpoint=str(path / "export.safetensors"))
        for n, i, path in (("x", 0, made["x"]), ("y", 1, made["y"]), ("z", 1, made["z"]))
    ]
    x, y, z = (fingerprint(read_run(folder)) for folder in folders)
    assert x == y != z
    raw = finetune(tmp_path / "raw", 0)
    assert fingerprint(read_run(raw)) not in (x, z)


def test_files_of_one_pretraining_are_settings_of_their_own(tmp_path):
    """The curve "how long to pretrain" is no mean over seeds."""
    made = [make_run(tmp_path / f"pre_s{i}", seed=i, kind="pretrain", ap=None) for i in (0, 1)]
    starts = [
        *((name, i) for name in ("model_0000099.pth", "model_0099999.pth") for i in (0, 1)),
        *((f"weights_s{i}.pth", i) for i in (0, 1)),
        *(("", i) for i in (0, 1)),  # the folder itself
    ]
    folders = [
        finetune(tmp_path / f"r{n}", i, init_checkpoint=str(made[i] / name))
        for n, (name, i) in enumerate(starts)
    ]
    settings = group_settings(read_runs(folders))
    assert [[r.name for r in s.runs] for s in settings] == [
        ["r0", "r1"],
        ["r2", "r3"],
        ["r4", "r5"],
        ["r6", "r7"],
    ]


def test_weights_that_are_gone_count_by_their_name(tmp_path):
    folders = [
        finetune(tmp_path / f"{name}{i}", i, init_checkpoint=f"/gone/{name}-seed{i}/export.pkl")
        for name in ("a", "b")
        for i in (0, 1)
    ]
    a0, a1, b0, b1 = (fingerprint(read_run(folder)) for folder in folders)
    assert a0 == a1 != b0 == b1


def test_what_only_watches_a_run_makes_no_setting(tmp_path):
    folders = [finetune(tmp_path / name, 0) for name in ("a", "b")]
    config = folders[1] / "config.yaml"
    more = "train:\n  report: false\n  pictures: 0\n  writers: []\n"
    config.write_text(config.read_text().replace("train:\n", more, 1))
    assert fingerprint(read_run(folders[0])) == fingerprint(read_run(folders[1]))
    (sentence,) = repeated(group_settings(read_runs(folders)))
    assert sentence == "a and b are of one setting and seed; both are counted."


def test_runs_without_a_config_stand_alone(tmp_path):
    folders = [finetune(tmp_path / f"r_s{i}", i) for i in range(2)]
    for folder in folders:
        (folder / "config.yaml").unlink()
    assert grouped(*folders) == {"r_s0": ["r_s0"], "r_s1": ["r_s1"]}


def test_labels_win(tmp_path):
    folders = [finetune(tmp_path / f"r{i}", i, lr=i + 1) for i in range(3)]
    settings = group_settings(read_runs(folders), {"r0": "mine", "r2": "mine"})
    assert [(s.name, len(s.runs)) for s in settings] == [("mine", 2), ("r1", 1)]


def test_settings_of_one_name_are_told_apart(tmp_path):
    folders = [finetune(tmp_path / f"{lr}/ours_s{i}", i, lr=lr) for lr in (1, 2) for i in (0, 1)]
    assert [s.name for s in group_settings(read_runs(folders))] == ["1/ours", "2/ours"]
    runs = read_runs(folders)
    for run in runs:
        run.name = run.path.name
    assert [s.name for s in group_settings(runs)] == ["ours (lr 1)", "ours (lr 2)"]


def test_an_unfinished_seed_does_not_count_beside_finished_ones(tmp_path):
    folders = [finetune(tmp_path / f"r_s{i}", i, ap=10.0 * (i + 1)) for i in range(3)]
    (folders[2] / "summary.json").unlink()
    (setting,) = group_settings(read_runs(folders))
    assert setting.scores("bbox/AP") == [10.0, 20.0]
    for folder in folders[:2]:
        (folder / "summary.json").unlink()
    (setting,) = group_settings(read_runs(folders))
    assert setting.scores("bbox/AP") == [10.0, 20.0, 30.0]


def test_a_model_of_other_parts_is_one_difference(tmp_path):
    parts = [", ".join(f"p{i}: {k}" for i in range(20)) for k in (1, 2)]
    folders = [
        make_run(tmp_path / n, config=f"model: {{_target_: a.b.{n.title()}, {p}}}")
        for n, p in zip(("dab", "deta"), parts, strict=True)
    ]
    settings = group_settings(read_runs(folders))
    assert differences(settings) == {"model": ["Dab", "Deta"]}


def test_what_differs_only_in_its_first_part_is_told_whole(tmp_path):
    names = [f"coco:/{place}/val.json@/{place}/images" for place in ("a/own", "b/own", "b/other")]
    configs = [json.dumps({"data": {"names": name}})[1:-1] for name in names]
    folders = [make_run(tmp_path / f"r{i}", config=text) for i, text in enumerate(configs)]
    settings = group_settings(read_runs(folders))
    assert differences(settings[:2]) == {"data.names": names[:2]}
    assert differences(settings[1:]) == {"data.names": ["coco:own/val.json", "coco:other/val.json"]}


def test_two_of_three_long_values_are_told_apart():
    long = ", ".join(f"x{i}" for i in range(60))
    none, first, second = _told([None, f"{long}1", f"{long}2"])
    assert none == "–" and first != second and first.endswith("1") and second.endswith("2")


def test_long_values_are_told_from_where_they_differ(tmp_path):
    steps = "[{name: Flip}, {name: Resize, short_edge_length: 96, interpolation: 2, max_size: %d}]"
    texts = [f"a: {steps % i}\nb: {'the same words ' * 20}{i}" for i in range(2)]
    folders = [make_run(tmp_path / f"r{i}", config=text) for i, text in enumerate(texts)]
    told = differences(group_settings(read_runs(folders)))
    assert told["a"] == [
        f"name Flip; name Resize, short_edge_length 96, interpolation 2, max_size {i}"
        for i in (0, 1)
    ]
    assert [text[-7:] for text in told["b"]] == ["words 0", "words 1"]
    texts = [text.replace("96", "96, sample: '" + "x" * 60 + "'") for text in texts]
    folders = [make_run(tmp_path / f"q{i}", config=text) for i, text in enumerate(texts)]
    told = differences(group_settings(read_runs(folders)))
    assert told["a"] == ["… max_size 0", "… max_size 1"]


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("ours_s0", "ours"),
        ("moco-seed1-83adc5ce1f", "moco"),
        ("seed3", "seed3"),
        ("s2_voc", "voc"),
        ("res50_seed=1_long", "res50_long"),
        ("lars10", "lars10"),
        ("moco_20260101", "moco_20260101"),
        ("step_00001000", "step_00001000"),
    ],
)
def test_names_without_seeds(name, bare):
    assert without_seed(name) == bare


def test_a_baseline_by_setting_run_or_path(tmp_path):
    folders = [finetune(tmp_path / f"ours_s{i}", i) for i in range(2)]
    settings = group_settings(read_runs(folders))
    for wanted in ("ours", "ours_s1", str(folders[0])):
        assert find_setting(settings, wanted) is settings[0]
    assert find_setting(settings, None) is None
    with pytest.raises(UserError, match="'our' is not one of the runs.*ours"):
        find_setting(settings, "our")
