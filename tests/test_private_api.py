"""The package uses only Detectron2's public Python: no compiled operators, no private fields.

That is what lets it run on the pure Python wheel and on a compiled Detectron2 main alike.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# holds the source text of the edits as strings, and is the one place that may name the operators
INSTALLER = {"detectron2_edits.py", "install_detectron2.py"}

# Private to Detectron2's (and fvcore's) objects: they changed between v0.6 and main.
PRIVATE = {
    "_trainer",
    "_hooks",
    "_data_loader_iter",
    "_data_loader_iter_obj",
    "_write_metrics",
    "_detect_anomaly",
    "_best_checking",
    "_do_eval",
    "_iter_metrics",
    "_latest_scalars",
    "_current_prefix",
    "_coco_eval",
    "_eval_predictions",
    "_derive_coco_results",
}


def sources() -> list[Path]:
    found = [ROOT / "train_net.py", *(ROOT / "setup.py",)]
    for folder in ("d2_unsupdet", "tools", "configs", "datasets", "benchmarks", "demo"):
        found += sorted((ROOT / folder).rglob("*.py"))
    return [path for path in found if path.is_file() and path.name not in INSTALLER]


def violations(tree: ast.AST) -> Iterator[str]:
    """Uses of `detectron2._C` or of a private field of an object other than `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {a.name}" for a in node.names if "detectron2._C" in a.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("detectron2"):
            names = {alias.name for alias in node.names}
            if "_C" in names or node.module == "detectron2._C":
                yield f"imports _C from {node.module}"
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text.startswith(("detectron2._C", "torch.ops.detectron2")):
                yield f"uses {text}"
            elif node.attr in PRIVATE:
                yield f"touches {text}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = node.args[1] if len(node.args) > 1 else None
            if isinstance(name, ast.Constant) and name.value in PRIVATE:
                yield f"touches {ast.unparse(node)}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_uses_only_public_python(path):
    found = list(violations(ast.parse(path.read_text(encoding="utf-8"))))
    assert not found, f"{path.relative_to(ROOT)}: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "from detectron2 import _C",
        "import detectron2._C",
        "import detectron2\ndetectron2._C.nms",
        "torch.ops.detectron2.nms_rotated(x)",
        "from detectron2._C import nms",
        "trainer._trainer.iter",
        "self._hooks.append(hook)",
        "getattr(trainer, '_data_loader_iter')",
    ],
)
def test_the_scan_finds(code):
    assert list(violations(ast.parse(code)))
