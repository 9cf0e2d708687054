"""The transfer benchmark with a runner that only pretends: what is done, repeated, and reported."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.run import prepare
from d2_unsupdet.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench():
    """Everything in the benchmark's modules, found as its script finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        names = ("runs", "backbones", "targets", "ledger", "work", "slopes", "table", "command")
        modules = [importlib.import_module(f"transfer.{name}") for name in names]
    return SimpleNamespace(**{k: v for module in modules for k, v in vars(module).items()})


class Pretender:
    """Writes what a run would leave; the AP is 10 times the seed, more after a pretraining."""

    def __init__(self, fails=(), summary=None):
        self.calls, self.fails, self.summary, self.given = [], set(fails), summary, []

    def __call__(self, arguments, log):
        values = dict(a.split("=", 1) for a in arguments if "=" in a)
        folder = Path(values["train.output_dir"])
        self.given.append(list(arguments))
        name = folder.name.rsplit("-", 1)[0]
        self.calls.append(name)
        folder.mkdir(parents=True, exist_ok=True)
        if name in self.fails:  # not calls[-1]: another thread may have called since
            raise RuntimeError("it ended")
        seed = int(values["train.seed"])
        result = {}
        if "finetune" in arguments[1]:
            start = values.get("train.init_checkpoint")
            assert start is None or Path(start).exists()
            score = 10.0 * seed + (5.0 + seed if start else 0.0)
            result = {"bbox": {"AP": score, "AP50": 2 * score}}
        else:
            (folder / "export.safetensors").touch()
        text = json.dumps({"result": result, "seconds": 7.0})
        if self.summary is not None and result:
            text = self.summary
        if text:
            (folder / "summary.json").write_text(text)


@pytest.fixture
def start(bench, tmp_path):
    """Runs the benchmark on two methods and targets; returns its parts."""

    def run(*arguments, runner=None, jobs=2):
        options = bench.parse(["--output", str(tmp_path), "--seeds", "1", "2", *arguments])
        options.methods = [m for m in options.methods if m in ("random", "moco_v2")]
        ledger = bench.Ledger(tmp_path / "ledger.json")
        runner = runner or Pretender()
        work = bench.Benchmark(tmp_path, ledger, runner, "abc")
        chains = bench.build_chains(options, {"toy": []})
        return work, runner, work.work(chains, jobs), chains

    return run


ALL = [
    *(f"finetune-toy-{m}-seed{s}" for m in ("moco_v2", "random") for s in (1, 2)),
    *(f"pretrain-moco_v2-seed{s}" for s in (1, 2)),
]


def test_everything_runs_once_and_a_finished_run_never_again(start):
    work, runner, failed, _ = start()
    assert (sorted(runner.calls), failed) == (ALL, 0)
    _, again, failed, _ = start()
    assert (again.calls, failed) == ([], 0)
    # A lost ledger is written again from what the runs left.
    work.ledger.path.unlink()
    work, third, _, _ = start()
    assert third.calls == [] and len(work.ledger.runs) == len(ALL)
    entry = next(iter(work.ledger.entries("finetune")))
    assert {"seed", "digest", "seconds", "result", "config", "overrides", "lr"} <= set(entry)


def test_a_pretraining_precedes_its_finetuning_and_seeds_come_in_order(start):
    _, runner, _, _ = start(jobs=1)
    assert runner.calls == [
        "finetune-toy-random-seed1",
        "pretrain-moco_v2-seed1",
        "finetune-toy-moco_v2-seed1",
        "finetune-toy-random-seed2",
        "pretrain-moco_v2-seed2",
        "finetune-toy-moco_v2-seed2",
    ]


def test_after_a_failure_only_its_followers_wait_and_the_next_start_goes_on(start, capsys):
    broken = Pretender(fails=["pretrain-moco_v2-seed1"])
    work, _, failed, _ = start(runner=broken)
    assert failed == 2 and len(work.ledger.runs) == len(ALL) - 2
    assert "its pretraining failed" in capsys.readouterr().out
    _, runner, failed, _ = start()
    assert (sorted(runner.calls), failed) == (
        ["finetune-toy-moco_v2-seed1", "pretrain-moco_v2-seed1"],
        0,
    )
    assert "resumed  pretrain-moco_v2-seed1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ('{"result": {}, "seconds": 7.0}', "has no box AP and no box AP50"),
        ('{"result": {"bbox": {"AP": 3.0}}, "seconds": 7.0}', "has no box AP50"),
        ('{"result": {"bbox": {"AP": NaN, "AP50": 1.0}}, "seconds": 7.0}', "has no box AP;"),
        ('{"seconds": 7.0}', "no readable summary.json .KeyError"),
        ('{"result": nu', "no readable summary.json .JSONDecodeError"),
        ("[]", "no readable summary.json .TypeError"),
        ("", "no readable summary.json .FileNotFoundError"),
    ],
)
def test_a_run_without_scores_is_a_failed_one_and_the_others_go_on(start, capsys, summary, message):
    work, runner, failed, _ = start(runner=Pretender(summary=summary))
    assert sorted(runner.calls) == ALL and failed == 4
    assert [e["kind"] for e in work.ledger.runs.values()] == ["pretrain"] * 2
    printed = capsys.readouterr().out
    assert printed.count("FAILED   finetune") == 4 and "delete '" in printed
    assert re.search(message, printed)


def test_data_that_is_not_what_it_was_is_said(bench, tmp_path, capsys, start):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20)).save(folder / f"{number}.png")
    name = f"folder:{folder}"
    work, *_ = start("--unlabeled", name)
    before = [e["data"] for e in work.ledger.entries("pretrain")]
    assert before == [{name: before[0][name]}] * 2 and before[0][name].startswith("3 images, ")
    assert [e["data"] for e in work.ledger.entries("finetune")] == [{}] * 4  # toy is drawn
    start("--unlabeled", name)
    assert "changed" not in capsys.readouterr().out

    Image.new("RGB", (20, 20)).save(folder / "3.png")
    bench.fingerprint.cache_clear()  # another process
    _, runner, _, _ = start("--unlabeled", name)
    printed = capsys.readouterr().out
    assert runner.calls == [] and printed.count("changed  pretrain-moco_v2") == 2
    assert "was 3 images" in printed and "is 4 images" in printed
    # What was finished before there were fingerprints is taken as it is.
    for entry in work.ledger.runs.values():
        entry.pop("data")
    work.ledger.add("none", {"kind": "none"})
    start("--unlabeled", name)
    assert "changed" not in capsys.readouterr().out


def test_a_fingerprint_holds_names_sizes_and_labels(bench, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    found = set()
    for box, file in (([0, 0, 9, 9], "a.png"), ([0, 0, 9, 8], "a.png"), ([0, 0, 9, 9], "b.png")):
        (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
        content = {
            "images": [{"id": 1, "file_name": file, "width": 20, "height": 20}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}],
            "categories": [{"id": 1, "name": "RBC"}],
        }
        path = tmp_path / f"{len(found)}.json"
        path.write_text(json.dumps(content))
        found.add(bench.fingerprint(f"coco:{path}@{tmp_path}"))
    assert len(found) == 3
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    moved = bench.fingerprint(f"coco:{tmp_path}/copy/0.json@{tmp_path}/copy")
    assert moved in found  # the same files elsewhere, whatever their times


def test_what_decides_the_result_decides_the_run(bench, start):
    _, _, _, chains = start()
    _, runner, _, changed = start("--lr", "moco_v2=0.03")
    assert sorted(runner.calls) == [name for name in ALL if "random" not in name]
    keys = {run.key() for chain in chains for run in chain}
    assert {run.key() for run in changed[0]} <= keys  # random does not depend on it
    _, runner, _, _ = start("--finetune-steps", "9")
    assert sorted(runner.calls) == [name for name in ALL if "finetune" in name]


def test_toy_runs_keep_the_names_they_have_had(bench, tmp_path):
    """Keys follow from recipe and options alone: no path, no data on disk, no rate rule."""
    options = bench.parse(["--output", str(tmp_path), "--seeds", "0", "--targets", "toy"])
    for chain in bench.build_chains(options, bench.choose_targets(options)):
        for run in chain:
            assert not any("optimizer.lr" in text for text in run.overrides)
            assert str(tmp_path) not in json.dumps(run.config_tree["dataloader"])
            assert bench.data_of(run) == {}


def trees(runner, kind):
    """(method, resolved config) of every call of a kind, from its whole command line."""
    found = []
    for name, arguments in zip(runner.calls, runner.given, strict=True):
        if name.startswith(kind):
            assert arguments[0] == "--config-file" and arguments[2] == "--resume"
            config, overrides = arguments[1], [*arguments[3:], "train.output_dir=out"]
            tree = to_plain(load_config(str(ROOT / config), overrides))
            found.append((name.removeprefix(f"{kind}-"), tree))
    return found


@pytest.mark.parametrize("scale", ["quickstart", "resnet50"])
def test_all_methods_have_one_budget_and_all_finetunings_differ_in_the_start_alone(
    bench, tmp_path, scale
):
    arguments = ["--scale", scale, "--seeds", "0", "--targets", "toy", "--output", str(tmp_path)]
    options = bench.parse([*arguments, "--steps", "70", "--batch", "32"])
    runner = Pretender()
    work = bench.Benchmark(tmp_path, bench.Ledger(tmp_path / "ledger.json"), runner)
    assert work.work(bench.build_chains(options, bench.choose_targets(options)), 1) == 0

    pretrained = trees(runner, "pretrain")
    assert [name for name, _ in pretrained] == [f"{m}-seed0" for m in bench.METHODS[1:]]
    budgets = []
    for _, tree in pretrained:
        data, train = tree["dataloader"]["train"], tree["train"]
        assert (train["max_iter"], data["total_batch_size"]) == (70, 32)
        assert data["mapper"]["size"] == bench.SCALES[scale].size
        assert data["dataset"]["names"] == "toy_unlabeled"
        train.pop("sync_bn")  # nothing on one device
        train.pop("recipe_length")  # scales milestones and warm-up, which a plain cosine has not
        network = {k: v for k, v in tree["model"]["backbone"].items() if k != "out_features"}
        budgets.append((data, train, tree["lr_multiplier"], network))
    assert all(budget == budgets[0] for budget in budgets)

    finetuned = trees(runner, "finetune-toy")
    assert [name for name, _ in finetuned] == [f"{m}-seed0" for m in bench.METHODS]
    starts = [tree["train"].pop("init_checkpoint") for _, tree in finetuned]
    assert not starts[0] and len(set(starts)) == len(bench.METHODS)
    assert all(tree == finetuned[0][1] for _, tree in finetuned)
    assert finetuned[0][1]["dataloader"]["train"]["dataset"]["subset"] == "50@seed0+every_class"


def test_the_linear_rule_at_full_scale_and_the_recipes_rates_at_the_small_one(bench, tmp_path):
    def rates(*arguments):
        options = bench.parse(["--seeds", "0", "--output", str(tmp_path), *arguments])
        chains = bench.build_chains(options, {"toy": []})
        assert {run.rates for chain in chains for run in chain} == {
            bench.SCALES[options.scale].rates
        }
        return {chain[0].method: chain[0].learning_rate for chain in chains if len(chain) == 2}

    full = {
        "moco_v2": 0.03 / 256,
        "simsiam": 0.1 / 512,
        "dupr": 0.06 / 256,
        "dense_siam": 0.1 / 512,
    }
    for batch in (64, 128):
        expected = pytest.approx({method: rate * batch for method, rate in full.items()})
        assert rates("--scale", "resnet50", "--batch", str(batch)) == expected
    own = rates("--scale", "resnet50", "--lr", "dupr=0.5")
    assert own["dupr"] == 0.5 and own["moco_v2"] == pytest.approx(0.03 / 4)
    small = {"moco_v2": 0.06, "simsiam": 0.05, "dupr": 0.06, "dense_siam": 0.05}
    assert rates() == rates("--batch", "32") == small


def test_table(bench, start):
    work, *_ = start()
    start("--lr", "moco_v2=0.03", "--finetune-steps", "9")
    ledger = bench.Ledger(work.ledger.path)
    seeds = [e for e in ledger.entries("pretrain") if e["lr"] == 0.06]
    for entry, slope in zip(seeds, (0.3, 0.5), strict=True):
        about = {k: entry[k] for k in ("method", "lr", "seed")}
        budget = ledger.entries("finetune")[0]["budget"]
        ledger.add(f"slope{slope}", {"kind": "slope", "slope": slope, "budget": budget, **about})
    first, second = bench.table(ledger).split("\n\nThe ", 1)[0].split("finetuned 9 steps")
    assert "| random |  | 15.0 ± 7.1 (2) | 30.0 ± 14.1 (2) |  |  |  |" in first
    # 16 and 27 against 10 and 20: the gain is paired by seed.
    assert "| moco_v2 | 0.06 | 21.5 ± 7.8 (2) | 43.0 ± 15.6 (2) | +6.5 ± 0.7 (2) |" in first
    assert "0.400 ± 0.141 (2)" in first and "| moco_v2 | 0.03 |" in second
    rates = (
        "\n\nrates: those of the quickstart recipes, set by hand, the same at any batch, or --lr"
    )
    assert bench.table(ledger).count(rates) == 2
    for entry in ledger.entries("finetune"):
        entry["rates"] = "drawn"
    assert bench.table(ledger).endswith("\n\nrates: drawn, or --lr")


def test_a_partial_table_says_how_many_seeds_it_has(bench, start):
    work, *_ = start("--seeds", "2")
    assert "| moco_v2 | 0.06 | 27.0 (1) | 54.0 (1) | +7.0 (1) |" in bench.table(work.ledger)
    assert bench.table(bench.Ledger(work.output / "none.json")).startswith("No finetuning")


def test_bad_input(bench, tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.parse(["--lr", "moco=0.1"])
    assert "method=rate" in capsys.readouterr().err
    (tmp_path / "ledger.json").write_text("[]")
    with pytest.raises(UserError, match="not a ledger"):
        bench.Ledger(tmp_path / "ledger.json")


def test_bccd_is_looked_for_under_the_data_root_first(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert bench.places("bccd", None)[0] == tmp_path / "bccd"
    assert len(bench.places("bccd", None)) == 2
    assert bench.places("bccd", tmp_path / "there") == [tmp_path / "there"]
    make_bccd(tmp_path)
    options = bench.parse(["--output", str(tmp_path), "--targets", "bccd"])
    (overrides,) = bench.choose_targets(options).values()
    assert f"coco:{tmp_path}/bccd/annotations/train.json" in overrides[0]


def make_bccd(tmp_path):
    names = {"train": 1, "val": 2, "test": 3}
    (tmp_path / "bccd/annotations").mkdir(parents=True)
    for name, number in names.items():
        content = {
            "images": [{"id": number, "file_name": f"{name}.jpg"}],
            "annotations": [{"id": 1, "image_id": number, "category_id": 1, "bbox": [0, 0, 9, 9]}],
            "categories": [{"id": 1, "name": "RBC"}],
        }
        (tmp_path / f"bccd/annotations/{name}.json").write_text(json.dumps(content))


def test_bccd_is_scored_on_everything_that_is_not_for_training(bench, tmp_path):
    make_bccd(tmp_path)
    options = bench.parse(
        ["--bccd", str(tmp_path / "bccd"), "--output", str(tmp_path), "--targets", "bccd"]
    )
    (overrides,) = bench.choose_targets(options).values()
    rest = json.loads((tmp_path / "bccd_rest.json").read_text())
    assert [image["id"] for image in rest["images"]] == [2, 3]
    assert [(a["id"], a["image_id"]) for a in rest["annotations"]] == [(1, 2), (2, 3)]
    assert f"coco:{tmp_path}/bccd/annotations/train.json" in overrides[0]
    options.bccd = tmp_path / "nowhere"
    assert bench.choose_targets(options) == {}


@pytest.mark.parametrize("scale", ["quickstart", "resnet50"])
def test_every_run_of_a_scale_is_one_that_train_net_takes(bench, tmp_path, scale):
    arguments = ["--scale", scale, "--seeds", "0", "--targets", "toy", "--output", str(tmp_path)]
    options = bench.parse(arguments)
    chains = bench.build_chains(options, bench.choose_targets(options))
    runs = [run for chain in chains for run in chain]
    assert {run.method for run in runs} == set(bench.METHODS) and len(runs) == 9
    finetunes = [run for run in runs if run.kind == "finetune"]
    assert len({(run.config, run.overrides) for run in finetunes}) == 1
    for run in [*runs[:2], *runs[3::2]]:
        prepare(load_config(str(ROOT / run.config), [*run.overrides, *run.quiet]))
    assert len({run.key() for run in runs}) == 9


def test_a_failing_process_says_where_its_log_is(bench, tmp_path):
    with pytest.raises(RuntimeError, match="does not exist.*console.txt"):
        bench.Processes()(["--config-file", "configs/none.py"], tmp_path / "console.txt")


def test_the_script_takes_the_package_of_its_own_clone(tmp_path):
    """Started from anywhere, with another installation of the package before the script's."""
    (tmp_path / "d2_unsupdet").mkdir()
    (tmp_path / "d2_unsupdet/__init__.py").write_text("raise SystemExit('another installation')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, ROOT / "benchmarks/transfer_backbones.py", "--table"]
    found = subprocess.run(
        [*command, "--output", tmp_path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert found.stdout == "No finetuning is finished yet.\n", found.stderr
