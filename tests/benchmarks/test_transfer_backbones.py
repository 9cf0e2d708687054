"""The transfer benchmark with a runner that only pretends: what is done, repeated, and reported."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.run import prepare
from d2_unsupdet.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench():
    path = ROOT / "benchmarks/transfer_backbones.py"
    spec = importlib.util.spec_from_file_location("transfer_backbones", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Pretender:
    """Writes what a run would leave; the AP is 10 times the seed, more after a pretraining."""

    def __init__(self, fails=()):
        self.calls, self.fails = [], set(fails)

    def __call__(self, arguments, log):
        values = dict(a.split("=", 1) for a in arguments if "=" in a)
        folder = Path(values["train.output_dir"])
        self.calls.append(folder.name.rsplit("-", 1)[0])
        folder.mkdir(parents=True, exist_ok=True)
        if self.calls[-1] in self.fails:
            raise RuntimeError("it ended")
        seed = int(values["train.seed"])
        result = {}
        if "finetune.py" in " ".join(arguments):
            start = values.get("train.init_checkpoint")
            assert start is None or Path(start).exists()
            score = 10.0 * seed + (5.0 + seed if start else 0.0)
            result = {"bbox": {"AP": score, "AP50": 2 * score}}
        else:
            (folder / "export.safetensors").touch()
        (folder / "summary.json").write_text(json.dumps({"result": result, "seconds": 7.0}))


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


def test_what_decides_the_result_decides_the_run(bench, start):
    _, _, _, chains = start()
    _, runner, _, changed = start("--lr", "moco_v2=0.03")
    assert sorted(runner.calls) == [name for name in ALL if "random" not in name]
    keys = {run.key() for chain in chains for run in chain}
    assert {run.key() for run in changed[0]} <= keys  # random does not depend on it
    _, runner, _, _ = start("--finetune-steps", "9")
    assert sorted(runner.calls) == [name for name in ALL if "finetune" in name]


def test_the_same_labels_and_finetuning_for_every_method(start):
    _, _, _, chains = start()
    (random,), (_, moco) = chains[0], chains[1]
    assert random.overrides == moco.overrides and random.config == moco.config
    assert "dataloader.train.dataset.subset=50@seed1+every_class" in random.overrides


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


def test_bccd_is_scored_on_everything_that_is_not_for_training(bench, tmp_path):
    names = {"train": 1, "val": 2, "test": 3}
    (tmp_path / "bccd/annotations").mkdir(parents=True)
    for name, number in names.items():
        content = {
            "images": [{"id": number, "file_name": f"{name}.jpg"}],
            "annotations": [{"id": 1, "image_id": number, "category_id": 1, "bbox": [0, 0, 9, 9]}],
            "categories": [{"id": 1, "name": "RBC"}],
        }
        (tmp_path / f"bccd/annotations/{name}.json").write_text(json.dumps(content))
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
