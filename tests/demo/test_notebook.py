"""The notebook's cells in order, by a dozen lines instead of Jupyter, on three kinds of models."""

import ast
import json

import pytest
from PIL import Image

from tests.demo.conftest import ROOT

NOTEBOOK = json.loads((ROOT / "demo/demo.ipynb").read_text())
CELLS = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


def execute(cell, names):
    """Run a cell; the value of its last line if that is an expression, as Jupyter shows it."""
    body = ast.parse(cell).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


@pytest.mark.parametrize("kind", ["deformable", "rcnn", "moco"])
def test_cells_run_in_order(kind, run_of, photos, capsys):
    names = {}
    execute(CELLS[0], names)
    assert names["IMAGE"] is None
    names |= {"RUN": str(run_of(kind)), "IMAGES": str(photos), "THRESHOLD": 0.0}
    shown = [execute(cell, names) for cell in CELLS[1:]]
    assert shown[0] is None
    boxes, attention, alike = shown[1:]
    assert boxes.size == (320, 240) and alike.size == (5 * 160 + 4 * 8, 120 + 24)
    assert isinstance(attention, Image.Image) == (kind == "deformable")
    assert names["near"][0].similarity == pytest.approx(1, abs=1e-3)
    said = capsys.readouterr().out
    assert f"{kind}: " in said and ("boxes, the surest scores" in said) == (kind != "moco")


def test_no_outputs_are_stored():
    assert NOTEBOOK["nbformat"] == 4 and len(CELLS) == 5
    for cell in NOTEBOOK["cells"]:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
