"""`import d2_unsupdet` works with and without Detectron2; what needs it says how to get it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

BLOCK = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
import d2_unsupdet
"""


def run(code: str, blocked: tuple[str, ...]) -> str:
    result = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_needs_neither_torch_nor_detectron2():
    loaded = run("print(sorted(sys.modules))", ("torch", "detectron2", "numpy", "fvcore"))
    assert "d2_unsupdet.detectors" not in loaded and "d2_unsupdet.pretext" not in loaded


def test_what_needs_detectron2_says_how_to_get_it():
    code = """
import pkgutil, importlib
for room in pkgutil.iter_modules(d2_unsupdet.__path__, "d2_unsupdet."):
    try:
        importlib.import_module(room.name)
    except ImportError as error:
        assert "python -m d2_unsupdet.install_detectron2" in str(error), f"{room.name}: {error}"
        print(room.name)
"""
    refused = run(code, ("detectron2",)).split()
    assert {"d2_unsupdet.detectors", "d2_unsupdet.pretext"} <= set(refused)


def test_a_mistake_of_ours_is_not_mistaken_for_a_missing_detectron2():
    code = """
sys.modules["d2_unsupdet.pretext"] = None  # any ImportError inside the package
"""
    result = subprocess.run(
        [sys.executable, "-c", "import sys\n" + code + "import d2_unsupdet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0 and "d2_unsupdet.pretext" in result.stderr


def test_import_registers_with_detectron2():
    code = """
from detectron2.modeling import META_ARCH_REGISTRY
print([n for n, c in META_ARCH_REGISTRY if c.__module__.startswith("d2_unsupdet.")])
"""
    assert "MoCoV2" in run(code, ())


def test_import_prints_nothing():
    command = [sys.executable, "-c", "import d2_unsupdet"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
