"""tools/check_parity.py: rows, the last line, the exit code, and that a difference is found."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

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
    assert lines[0].startswith("op_densesiam: not compared, nothing here is compared with")
    assert lines[1] == "op_deta (github.com/jozhang97/DETA): 41 of 41 rows pass"
    assert all(line.startswith("  ok   ") for line in lines[2:-1])
    assert lines[-1] == "41 passed, 0 failed"


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
