"""What a stranger relies on: metadata, tested versions, make targets, licence."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from d2_unsupdet.detectron2_edits import EDITS
from d2_unsupdet.env import FEATURES
from d2_unsupdet.install_detectron2 import REQUIRES

ROOT = Path(__file__).parents[1]
LOGGING_SERVICE = {"wandb", "cityscapesscripts", "submitit"}  # extras that `make setup` leaves out


@pytest.fixture(scope="module")
def arguments() -> dict:
    """The arguments that setup.py hands to setuptools."""
    code = (
        "import setuptools; setuptools.setup = lambda **kwargs: print(repr(kwargs));"
        "import runpy; runpy.run_path('setup.py')"
    )
    output = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    return ast.literal_eval(output)


@pytest.fixture(scope="module")
def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_setup_imports_neither_torch_nor_anything_of_ours():
    tree = ast.parse((ROOT / "setup.py").read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else
                     [alias.name for alias in node.names])
    }  # fmt: skip
    assert imported == {"re", "pathlib", "setuptools"}


def test_metadata(arguments):
    import d2_unsupdet

    assert arguments["version"] == d2_unsupdet.__version__
    assert arguments["python_requires"] == ">=3.11"
    assert "ext_modules" not in arguments
    names = {Requirement(text).name for text in arguments["install_requires"]}
    assert "detectron2" not in names  # there is no such project on PyPI
    assert len([name for name in names if name.startswith("opencv")]) == 1


def test_every_requirement_has_a_tested_version_in_its_range(arguments, constraints):
    stated = [*arguments["install_requires"], *arguments["extras_require"]["dev"], *REQUIRES]
    for text in stated:
        requirement = Requirement(text)
        version = constraints[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), text


def test_the_tested_pair_of_torch(constraints):
    assert str(constraints["torch"]) == "2.14.1"
    assert str(constraints["torchvision"]) == "0.29.1"


def test_constraints_hold_what_the_extras_need_too(arguments, constraints):
    for extra, requirements in arguments["extras_require"].items():
        for text in requirements:
            name = canonicalize_name(Requirement(text).name)
            assert name in constraints or name in LOGGING_SERVICE, f"{extra}: {name}"


def test_core_requirements_are_installed_in_their_ranges(arguments):
    for text in arguments["install_requires"]:
        requirement = Requirement(text)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            assert requirement.name.startswith("opencv"), text  # any wheel of cv2 will do
            continue
        assert requirement.specifier.contains(version, prereleases=True), f"{text}: {version}"


def test_make_has_the_targets_that_the_readme_names():
    makefile = (ROOT / "Makefile").read_text()
    for target in [
        "quickstart",
        "quickstart-backbone",
        "test",
        "test-slow",
        "lint",
        "types",
        "bench",
        "setup",
    ]:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_extra_shows_up_in_the_environment_report(arguments):
    commands = " ".join(feature.command for feature in FEATURES)
    for extra, requirements in arguments["extras_require"].items():
        if extra != "dev":
            assert Requirement(requirements[0]).name in commands, extra


def test_each_edit_says_why():
    assert all(len(edit.why.split()) > 3 for edit in EDITS)


def test_licence():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
