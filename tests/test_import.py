"""`import d2_unsupdet` works with and without Detectron2; what needs it says how to get it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("tool", ["train_net.py", "tools/publish.py"])
def test_tools_say_so_in_one_sentence(tool):
    words = {"train_net.py": ["--config-file", "configs/quickstart/finetune.py"]}
    code = f"""
import runpy
sys.argv = [{tool!r}, *{words.get(tool, ["run", "out"])!r}]
for name in [name for name in sys.modules if name.startswith("d2_unsupdet")]:
    del sys.modules[name]
try:
    runpy.run_path({tool!r}, run_name="__main__")
except SystemExit as error:
    print(error.code)
"""
    result = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=("detectron2",)) + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "2", result.stderr
    assert "error: d2_unsupdet needs Detectron2, which is not installed: run" in result.stderr
    assert "Traceback" not in result.stderr


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


def test_a_program_may_register_later():
    code = """
__registers_later__ = True
import sys, d2_unsupdet
assert "torch" not in sys.modules
d2_unsupdet.register_all()
from detectron2.modeling import META_ARCH_REGISTRY
print("MoCoV2" in META_ARCH_REGISTRY)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("True\n", "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("train_net.py --help", 0, "--eval-only"),
        ("train_net.py --config-file", 2, "error: argument --config-file"),
        ("tools/reproduce.py --help", 0, "--dry-run"),
        ("tools/reproduce.py --list toy-*", 0, "toy-detector-detreg"),
        ("tools/reproduce.py toy-detektor-detreg", 2, "Did you mean 'toy-detector-detreg'"),
        ("tools/publish.py --bset a b", 2, "error: unrecognized arguments: --bset"),
        ("-m d2_unsupdet.env --hlep", 2, "error: unrecognized arguments: --hlep"),
        ("-m d2_unsupdet.install_detectron2 --hlep", 2, "unrecognized arguments: --hlep"),
        (
            "datasets/prepare_imagenet.py a",
            2,
            "error: the following arguments are required: target",
        ),
    ],
)
def test_tools_answer_before_torch_is_imported(words, code, said, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise SystemExit('torch was imported')")
    result = subprocess.run(
        [sys.executable, *words.split()],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert said in result.stdout + result.stderr


def test_import_prints_nothing():
    command = [sys.executable, "-c", "import d2_unsupdet"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
