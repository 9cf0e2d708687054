"""The environment report: starts on a bare or broken interpreter and names what is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from d2_unsupdet import env

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(monkeypatch):
    """Pretend that exactly these distributions, and the modules of these names, are there."""

    def pretend(versions: dict[str, str], modules: set[str] = frozenset()) -> None:
        monkeypatch.setattr(env, "version_of", versions.get)
        monkeypatch.setattr(env, "is_installed", lambda module: module in modules)

    return pretend


def test_nothing_installed(installed):
    installed({})
    facts = env.summary()
    commands = [feature["command"] for feature in facts["missing"]]
    assert len(commands) == len(env.FEATURES)
    assert "python -m d2_unsupdet.install_detectron2" in commands
    assert facts["devices"] == [] and facts["detectron2"] is None and facts["warnings"] == []
    text = env.format_summary(facts)
    assert "missing for faster COCO scores: pip install faster-coco-eval" in text


def test_two_opencv_wheels_warn_with_the_fix(installed):
    installed({"opencv-python": "4.10", "opencv-contrib-python-headless": "5.0"})
    facts = env.summary()
    assert facts["opencv_wheels"] == {
        "opencv-python": "4.10",
        "opencv-contrib-python-headless": "5.0",
    }
    (warning,) = facts["warnings"]
    assert "2 OpenCV wheels" in warning
    assert "pip uninstall --yes opencv-python opencv-contrib-python-headless" in warning
    assert f"WARNING: {warning}" in env.format_summary(facts)


def test_opencv_without_proposals_warns(installed):
    installed({"opencv-python-headless": "4.10"})
    assert "no selective search" in env.summary()["warnings"][0]


def test_one_contrib_wheel_is_fine(installed):
    installed({"opencv-contrib-python": "4.10"})
    assert env.summary()["warnings"] == []


def test_this_environment_is_json_and_names_the_cpu():
    facts = json.loads(json.dumps(env.summary()))
    assert facts["packages"]["torch"]
    assert facts["devices"][0].startswith("cpu")
    assert str(sys.version_info.minor) in facts["python"]


def run_env(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", "-m", "d2_unsupdet.env"],
        env={"PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_runs_on_a_bare_interpreter(tmp_path):
    result = run_env(tmp_path)
    assert result.returncode == 0, result.stderr
    assert "missing for training and evaluation: pip install torch torchvision" in result.stdout


def test_explains_a_torch_and_a_detectron2_that_do_not_import(tmp_path):
    for name, error in (("torch", "OSError('libcudart.so')"), ("detectron2", "ImportError('_C')")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise {error}")
    result = run_env(tmp_path)
    assert result.returncode == 0, result.stderr
    assert "WARNING: torch does not import: OSError: libcudart.so" in result.stdout
    assert "WARNING: detectron2 does not import: ImportError: _C" in result.stdout


def test_a_bare_folder_named_detectron2_does_not_count(tmp_path):
    (tmp_path / "detectron2").mkdir()
    result = run_env(tmp_path)
    assert "missing for every model: python -m d2_unsupdet.install_detectron2" in result.stdout
