"""The installer, offline: made-up source distributions, a real pip, nothing installed anywhere."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from d2_unsupdet import install_detectron2 as installer
from d2_unsupdet.detectron2_edits import Edit
from d2_unsupdet.errors import UserError

FILES = {
    "LICENSE": b"some licence",
    "setup.py": b"raise SystemExit('must not run')",
    "detectron2/__init__.py": b'__version__ = "0.6"\n',
    "detectron2/layers/ops.py": b"old\nold\n",
    "detectron2/model_zoo/configs/base.yaml": b"VERSION: 2\n",
    "projects/DeepLab/deeplab/__init__.py": b"",
    "tools/train_net.py": b"",
}
EDITS = (Edit("detectron2/layers/ops.py", "old", "new", "because", 2),)


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    path = tmp_path / "pb1-detectron2-0.6.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in FILES.items():
            member = tarfile.TarInfo(f"pb1-detectron2-0.6/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def no_detectron2(monkeypatch):
    monkeypatch.setattr(installer, "is_installed", lambda module: module != "detectron2")


@pytest.fixture
def no_pip(monkeypatch):
    """Any call of pip fails the test: nothing may be installed."""

    def call(*arguments):
        raise AssertionError(f"pip was called: {arguments}")

    monkeypatch.setattr(installer, "_pip", call)


def one_sentence(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_sources_are_package_projects_and_licence(sdist):
    assert sorted(installer.read_sources(sdist)) == [
        "LICENSE",
        "detectron2/__init__.py",
        "detectron2/layers/ops.py",
        "detectron2/model_zoo/configs/base.yaml",
        "detectron2/projects/deeplab/__init__.py",
    ]


def test_wrong_hash_is_one_sentence_and_nothing_is_installed(sdist, capsys, no_detectron2, no_pip):
    assert installer.main(["--from-file", str(sdist)]) == 2
    message = one_sentence(capsys)
    assert sha256(sdist) in message and "nothing was installed" in message


def test_missing_file_is_one_sentence(tmp_path, capsys, no_detectron2, no_pip):
    assert installer.main(["--from-file", str(tmp_path / "absent.tar.gz")]) == 2
    assert "absent.tar.gz" in one_sentence(capsys)


def test_failing_edit_stops_before_anything_is_installed(sdist, no_detectron2, no_pip):
    # a right hash but another content: the real edits do not fit the made-up files
    with pytest.raises(UserError, match=r"found .* 0 times instead of 1, so nothing was installed"):
        installer.run(sdist, sha256(sdist))


@pytest.mark.parametrize("count", [1, 3])
def test_an_edit_must_match_exactly_as_often_as_declared(count):
    edit = Edit("detectron2/layers/ops.py", "old", "new", "because", count)
    with pytest.raises(UserError, match=f"2 times instead of {count}"):
        installer.apply_edits(FILES, [edit])


def test_a_new_file_must_not_exist():
    with pytest.raises(UserError, match="the new file 1 times instead of 0"):
        installer.apply_edits(FILES, [Edit("detectron2/__init__.py", None, "", "because")])


def test_no_torch_is_one_sentence(capsys, monkeypatch, no_pip):
    monkeypatch.setattr(installer, "is_installed", lambda module: module == "torchvision")
    assert installer.main([]) == 2
    assert "pip install torch torchvision" in one_sentence(capsys)


def test_no_setuptools_is_one_sentence(capsys, monkeypatch, no_pip):
    monkeypatch.setattr(installer, "is_installed", lambda module: module.startswith("torch"))
    assert installer.main([]) == 2
    assert "pip install setuptools" in one_sentence(capsys)


def only_index(monkeypatch, **options: str) -> None:
    """Point pip at one place and away from this machine's configuration."""
    settings = {"CONFIG_FILE": "/dev/null", "EXTRA_INDEX_URL": "", "FIND_LINKS": "", **options}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)


def test_no_network_is_one_sentence(capsys, monkeypatch, no_detectron2):
    only_index(monkeypatch, INDEX_URL="http://127.0.0.1:9/simple", RETRIES="0")
    assert installer.main([]) == 2
    message = one_sentence(capsys)
    assert "cannot be reached" in message and "--from-file" in message


def test_index_with_another_file_is_refused_before_its_setup_runs(
    sdist, capsys, monkeypatch, no_detectron2
):
    only_index(monkeypatch, NO_INDEX="1", FIND_LINKS=str(sdist.parent))
    assert installer.main([]) == 2
    message = one_sentence(capsys)
    assert installer.SHA256 in message and "must not run" not in message


def test_wheel_is_reproducible_and_lists_every_file(sdist, tmp_path):
    files = installer.apply_edits(installer.read_sources(sdist), EDITS)
    first = installer.write_wheel(files, tmp_path).read_bytes()
    wheel = installer.write_wheel(dict(reversed(files.items())), tmp_path)
    assert wheel.read_bytes() == first
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("detectron2/layers/ops.py") == b"new\nnew\n"
        record = archive.read(f"{installer.DIST_INFO}/RECORD").decode()
        assert [line.split(",")[0] for line in record.splitlines()] == sorted(
            name for name in archive.namelist() if not name.endswith("RECORD")
        ) + [f"{installer.DIST_INFO}/RECORD"]


def test_pip_installs_the_wheel_as_detectron2(sdist, tmp_path):
    files = installer.apply_edits(installer.read_sources(sdist), EDITS)
    wheel = installer.write_wheel(files, tmp_path)
    target = tmp_path / "site"
    result = installer._pip(
        "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)
    )
    assert result.returncode == 0, result.stderr
    code = (
        "import json, detectron2, importlib.metadata as m; d = m.distribution('detectron2');"
        "print(json.dumps([detectron2.__version__, d.version, d.requires]))"
    )
    command = [sys.executable, "-S", "-c", code]
    output = subprocess.check_output(command, env={"PYTHONPATH": str(target)}, text=True)
    version, distribution, requires = json.loads(output)
    assert version == distribution == "0.6"
    assert {"fvcore>=0.1.5", "torch", "pycocotools>=2.0.2"} <= set(requires)


def test_a_build_that_does_not_import_is_removed_again(monkeypatch, tmp_path):
    calls = []

    def pip(*arguments):
        calls.append(arguments)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(installer, "_pip", pip)
    monkeypatch.setattr(installer, "find_detectron2", lambda: (None, "ImportError: no such thing"))
    with pytest.raises(UserError, match="removed again: ImportError: no such thing"):
        installer.install_wheel(tmp_path / "detectron2.whl")
    assert calls[-1] == ("uninstall", "--yes", "detectron2")


def test_failed_requirements_leave_detectron2_out(monkeypatch, tmp_path):
    calls = []

    def pip(*arguments):
        calls.append(arguments)
        return subprocess.CompletedProcess(arguments, 1, "", "noise\nERROR: disk full\n")

    monkeypatch.setattr(installer, "_pip", pip)
    monkeypatch.setattr(installer, "version_of", lambda name: None if name == "yacs" else "1")
    with pytest.raises(UserError, match="could not install yacs.*: ERROR: disk full"):
        installer.install_wheel(tmp_path / "detectron2.whl")
    assert calls == [("install", "--quiet", "yacs>=0.1.8")]


def test_an_existing_detectron2_is_left_alone(capsys, monkeypatch, no_pip):
    monkeypatch.setattr(installer, "is_installed", lambda module: True)
    monkeypatch.setattr(installer, "is_outdated", lambda: False)
    monkeypatch.setattr(installer, "find_detectron2", lambda: ("0.7 in /somewhere", ""))
    assert installer.main([]) == 0
    assert "0.7 in /somewhere is already installed" in capsys.readouterr().out


def test_an_existing_detectron2_that_is_broken_is_reported(capsys, monkeypatch, no_pip):
    monkeypatch.setattr(installer, "is_installed", lambda module: True)
    monkeypatch.setattr(installer, "is_outdated", lambda: False)
    monkeypatch.setattr(installer, "find_detectron2", lambda: (None, "ImportError: x.so"))
    assert installer.main([]) == 2
    assert "does not import (ImportError: x.so)" in one_sentence(capsys)


def test_changing_an_edit_changes_the_digest():
    longer = (*EDITS, Edit("detectron2/__init__.py", "0.6", "0.7", "because"))
    assert installer.edits_digest(EDITS) != installer.edits_digest(longer)


def test_starts_without_torch_and_detectron2(tmp_path):
    for name in ("torch", "detectron2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported')")
    result = subprocess.run(
        [sys.executable, "-m", "d2_unsupdet.install_detectron2", "--help"],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "--from-file" in result.stdout
