"""The benchmark of whole detectors with a runner that only pretends: what runs, and the tables."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.run import prepare
from d2_unsupdet.priors import PriorStore

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        names = ("runs", "ledger", "work", "detectors", "detector_table", "detector_command")
        modules = [importlib.import_module(f"transfer.{name}") for name in names]
    return SimpleNamespace(**{k: v for module in modules for k, v in vars(module).items()})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("boxes") / "store"
    with PriorStore(path).write(0, {}) as writer:
        boxes = np.array([[0.1, 0.1, 0.5, 0.5]], np.float32)
        writer.add({"file_name": "a.jpg"}, 9, 9, boxes, np.ones(1))
    return path


class Pretender:
    """Writes what a run would leave: pretrained detectors have 3 AP more, and sooner."""

    def __init__(self):
        self.calls = []

    def __call__(self, arguments, log):
        values = dict(a.split("=", 1) for a in arguments if "=" in a)
        folder = Path(values["train.output_dir"])
        folder.mkdir(parents=True)
        self.calls.append((folder.name.rsplit("-", 1)[0], list(arguments)))
        pretrained = "train.init_checkpoint" in values
        if "--eval-only" in arguments:
            found = {"bbox_agnostic": {"AP": 9.0, "AP50": 20.0, "AR@10": 30.0, "APl": float("nan")}}
            found["bbox_agnostic"]["AR@100"] = 40.0
            log.write_text(f"a line\n{json.dumps({'no': 1})}\n{json.dumps(found, indent=2)}\n")
            return
        score = 3.0 * pretrained + int(values["train.seed"]) + 1
        result = {"AP": score, "AP50": 2 * score, "AR@10": 11.0, "AR@100": 12.0}
        if "pretrain" in folder.name:
            (folder / "export.safetensors").touch()
            (folder / "model_final.pth").touch()
            result = {}
        steps = [(50, score - 2), (100, score)]
        lines = [json.dumps({"iteration": s - 1, "bbox/AP": v}) for s, v in steps]
        (folder / "metrics.json").write_text("\n".join(lines))
        summary = {"result": {"bbox": result}, "seconds": 7.0}
        (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def start(bench, tmp_path, store):
    def run(*arguments, methods=("random", "detreg"), runner=None):
        given = ["--output", str(tmp_path), "--seeds", "0", "1", "--targets", "toy", *arguments]
        options = bench.parse([*given, "--methods", *methods])
        data = bench.choose_data(options)
        data.boxes.update(dict.fromkeys(data.pretrain, store))
        ledger, runner = bench.Ledger(tmp_path / "ledger.json"), runner or Pretender()
        chains = bench.build_chains(options, data)
        work = bench.Benchmark(tmp_path, ledger, runner)
        return work, runner, work.work(chains, 1), chains

    return run


def test_seeds_outermost_and_each_run_once(start):
    work, runner, failed, _ = start()
    one = ["finetune-toy-random", "heads-toy-random", "pretrain-toy-detreg"]
    one += ["found-toy-detreg", "finetune-toy-detreg", "heads-toy-detreg"]
    assert [name for name, _ in runner.calls] == [f"{n}-seed{s}" for s in (0, 1) for n in one]
    assert failed == 0 and len(work.ledger.runs) == 12
    _, again, _, _ = start()
    assert again.calls == []


def test_runs_differ_in_their_start_alone(start, store):
    _, runner, _, chains = start("--seeds", "0")
    given = dict(runner.calls)
    folder = chains[1][0].key()
    weights = [a for a in given["finetune-toy-detreg-seed0"] if "init_checkpoint" in a]
    assert weights[0].endswith(f"{folder}/export.safetensors")
    scratch = {a for a in given["finetune-toy-random-seed0"] if "output_dir" not in a}
    tuned = {a for a in given["finetune-toy-detreg-seed0"] if "output_dir" not in a}
    configs = {"configs/quickstart/finetune_detector.py"}  # scratch has its own best rate
    assert tuned - scratch == set(weights) | configs
    assert scratch - tuned == {"configs/quickstart/scratch_detector.py"}
    heads = set(given["heads-toy-detreg-seed0"])
    assert "train.freeze=['*','!heads.*']" in heads and "train.max_iter=150" in heads
    scored = given["found-toy-detreg-seed0"]
    assert "--eval-only" in scored and "--resume" not in scored
    assert any(a.endswith(f"{folder}/model_final.pth") for a in scored)
    assert f"dataloader.train.mapper.source.path={store}" in given["pretrain-toy-detreg-seed0"]


def test_the_boxes_are_known_by_their_hash_and_not_by_their_place(start, store):
    work, _, _, chains = start("--seeds", "0")
    entry = next(e for e in work.ledger.entries("pretrain"))
    assert entry["data"] == {"boxes": PriorStore(store).open().sha256}
    assert str(store) not in json.dumps(chains[1][0].config_tree, default=str)


def test_the_table_pairs_seeds_and_tells_when_scratch_is_reached(bench, start):
    work, *_ = start()
    rows = [line for line in bench.table(work.ledger).splitlines() if line.startswith("|")]
    cells = [cell.strip() for cell in rows[3].strip("|").split("|")]
    assert [cells[0], *cells[2:6]] == [
        "detreg",
        "4.5 ± 0.7 (2)",
        "9.0 ± 1.4 (2)",
        "+3.0 ± 0.0 (2)",
        "50, 50",
    ]
    assert cells[7:12] == [
        "11.0 ± 0.0 (2)",
        "12.0 ± 0.0 (2)",
        "9.0 ± 0.0 (2)",
        "30.0 ± 0.0 (2)",
        "40.0 ± 0.0 (2)",
    ]
    assert rows[2].startswith("| scratch |") and "100, 100" in rows[2]
    assert bench.table(bench.Ledger(work.output / "none.json")) == "Nothing is finished yet."


def test_what_two_budgets_share_stands_with_the_last(bench, start):
    work, *_ = start("--seeds", "0")
    work, runner, *_ = start("--seeds", "0", "--finetune-steps", "9")
    assert {name.split("-")[0] for name, _ in runner.calls} == {"finetune"}
    last = bench.table(work.ledger).split("finetuned 9 steps")[1]
    assert "| 9.0 (1) | 30.0 (1) | 40.0 (1) | " in last.splitlines()[5]


def test_curves_are_drawn_for_every_target(bench, start, tmp_path):
    work, *_ = start()
    bench.draw_curves(work.ledger, tmp_path / "curves.png")
    assert (tmp_path / "curves_toy.png").stat().st_size > 5000


def test_a_partial_ledger_makes_a_table(bench, start):
    work, *_ = start("--seeds", "1", methods=("detreg",))
    row = bench.table(work.ledger).splitlines()[4]
    assert "| 5.0 (1) | 10.0 (1) |  |  |" in row


@pytest.mark.parametrize("method", ["random", "up_detr", "detreg", "siamese_detr", "join_det"])
def test_every_run_is_one_that_train_net_takes(bench, start, method):
    _, _, _, chains = start("--seeds", "0", methods=(method,))
    for run in chains[0]:
        if run.kind != bench.FOUND:
            prepare(load_config(str(ROOT / run.config), [*run.overrides, *run.quiet]))
    if method == "join_det":
        assert "train.refresh.period=150" in chains[0][0].overrides
    if method == "up_detr":
        assert chains[0][0].boxes is None


def test_scores_that_were_not_printed_are_a_failure(bench, tmp_path):
    (tmp_path / "console.txt").write_text("error: no weights\n")
    with pytest.raises(RuntimeError, match="printed no scores"):
        bench.summarize(tmp_path / "console.txt", tmp_path / "summary.json", 1.0)
