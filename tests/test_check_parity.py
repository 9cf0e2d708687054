"""tools/check_parity.py: rows, the last line, the exit code, and that a difference is found."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.structures import ImageList

from d2_unsupdet.detectors import DETR, criterion
from tests.parity.cases import COMPACT, COMPLETE

TOOL = Path(__file__).parents[1] / "tools" / "check_parity.py"


def run(monkeypatch, capsys, *arguments):
    """Exit code and lines of the tool, run in this process."""
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    output = capsys.readouterr()
    return ended.value.code, (output.out or output.err).splitlines()


def test_rows_and_the_count(monkeypatch, capsys):
    code, lines = run(monkeypatch, capsys, COMPACT, "--only", "op_deta", "op_densesiam")
    assert code == 0
    test = "tests/pretext/test_dense_siam_segmentor.py"
    assert lines[0] == f"op_densesiam: not compared here, {test} compares it"
    assert "op_densesiam" in (TOOL.parents[1] / test).read_text()
    assert lines[1] == "op_deta (github.com/jozhang97/DETA): 40 of 40 rows pass"
    assert all(line.startswith("  ok   ") for line in lines[2:-2])
    assert lines[-2].startswith("  reference only, not counted, box_iou of torchvision, which our")
    assert lines[-1] == "40 passed, 0 failed"


@pytest.fixture
def folder(tmp_path):
    """A folder with DETR's compact file, whose arrays a test may change."""
    for suffix in (".json", ".npz"):
        shutil.copyfile(COMPACT / f"detr_r50{suffix}", tmp_path / f"detr_r50{suffix}")
    return tmp_path


def test_changed_numbers_fail(monkeypatch, capsys, folder):
    with np.load(folder / "detr_r50.npz") as file:
        arrays = {name: file[name] for name in file}
    arrays["pred_boxes"][1, 7, 2] += 1e-3
    arrays["loss.main.loss_giou_3"] *= np.float32(1.001)
    arrays["match.main.final.img0.src"][0] += 1
    arrays["grad_norm.main"][40] *= np.float32(1.01)
    np.savez(folder / "detr_r50.npz", **arrays)
    code, lines = run(monkeypatch, capsys, folder, "--failures")
    assert code == 1
    failures = [line.split()[1] for line in lines if line.startswith("  FAIL")]
    assert failures == [
        "pred_boxes",
        "loss.main.loss_giou_3",
        "match.main.final.img0",
        "grad_norm.main",
    ]
    assert lines[-1].endswith("passed, 4 failed")


def test_only_what_our_model_computes_is_counted(monkeypatch, capsys, folder):
    """Without logs and normalisation, the rows that need them fail, and no other."""
    with np.load(folder / "detr_r50.npz") as file:
        arrays = {name: file[name] for name in file}
    arrays["loss.main.cardinality_error_2"] += 1  # ours logs that of the last layer
    np.savez(folder / "detr_r50.npz", **arrays)
    monkeypatch.setattr(criterion, "log_metric", lambda *_, **__: None)
    monkeypatch.setattr(
        DETR,
        "preprocess",
        lambda self, batch: ImageList.from_tensors([sample["image"] for sample in batch]),
    )
    code, lines = run(monkeypatch, capsys, folder, "--failures")
    assert code == 1
    failures = {line.split()[1] for line in lines if line.startswith("  FAIL")}
    logged = {f"loss.{case}.class_error" for case in ("main", "oneempty")}
    logged |= {f"loss.{case}.cardinality_error" for case in ("main", "oneempty", "allempty")}
    assert {name for name in failures if not name.startswith("forward.")} == logged
    assert "forward.img0.boxes" in failures
    apart = [line for line in lines if line.startswith("  reference only, not counted, ")]
    assert len(apart) == 2
    assert "loss.allempty.class_error" in apart[0]
    assert "loss.main.cardinality_error_2" in apart[1]
    counted = sum(int(word) for word in lines[-1].split() if word.isdigit())
    assert lines[0].endswith(f" of {counted} rows pass")


@pytest.mark.parametrize("repository", ["github.com/facebookresearch/detr2", None])
def test_a_detector_of_nowhere_fails(monkeypatch, capsys, folder, repository):
    manifest = json.loads((folder / "detr_r50.json").read_text())
    manifest.pop("official_repo")
    if repository:
        manifest["official_repo"] = repository
    (folder / "detr_r50.json").write_text(json.dumps(manifest))
    for suffix in (".json", ".npz"):
        shutil.copyfile(COMPACT / f"op_detr{suffix}", folder / f"op_detr{suffix}")
    code, lines = run(monkeypatch, capsys, folder, "--failures")
    assert code == 1
    assert f"official_repo is {repository or '?'}, none of facebookresearch/detr, " in lines[1]
    assert "--skip detr_r50" in lines[1]
    assert lines[-1] == "10 passed, 1 failed"
    code, lines = run(monkeypatch, capsys, folder, "--failures", "--skip", "detr_r50")
    assert code == 0
    assert lines[0] == "detr_r50: not compared here, as asked for"
    assert lines[-1] == "10 passed, 0 failed"


def test_operators_of_nowhere_fail(monkeypatch, capsys, tmp_path):
    manifest = json.loads((COMPACT / "op_detr.json").read_text())
    manifest.pop("official_repo")
    (tmp_path / "op_detr.json").write_text(json.dumps(manifest))
    shutil.copyfile(COMPACT / "op_detr.npz", tmp_path / "op_detr.npz")
    code, lines = run(monkeypatch, capsys, tmp_path)
    assert code == 1
    assert lines[-1] == "0 passed, 1 failed"


def test_other_weights_are_noticed(monkeypatch, capsys, folder):
    manifest = json.loads((folder / "detr_r50.json").read_text())
    manifest["weight_rule_exceptions"].pop()
    (folder / "detr_r50.json").write_text(json.dumps(manifest))
    code, lines = run(monkeypatch, capsys, folder)
    assert code == 1
    assert "have another hash than its manifest states" in lines[1]
    assert lines[-1] == "0 passed, 1 failed"


def test_wrong_folders_are_a_sentence(monkeypatch, capsys, tmp_path):
    code, lines = run(monkeypatch, capsys, tmp_path)
    assert code == 2
    assert "holds no golden file" in lines[-1]
    code, lines = run(monkeypatch, capsys, COMPACT, "--only", "op_dta")
    assert code == 2
    assert "no golden file called op_dta" in lines[-1]


@pytest.mark.slow
@pytest.mark.skipif(not COMPLETE.is_dir(), reason="no folder of complete golden files")
def test_the_complete_files(monkeypatch, capsys):
    code, lines = run(monkeypatch, capsys, COMPLETE, "--failures")
    assert code == 0, "\n".join(lines)
    assert lines[-1].endswith(", 0 failed")
    assert int(lines[-1].split()[0]) > 1000
