"""`python -m d2_unsupdet.install_detectron2`: Detectron2 v0.6 as a pure Python wheel, no compiler.

PyPI holds the Python code of the v0.6 tag as `pb1-detectron2`, whose own build needs C++ sources it
does not contain. So: download it, check its hash, apply the edits of `detectron2_edits`, write a
wheel and install that. A Detectron2 that is already there is left alone. Starts without torch.
"""

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath

from d2_unsupdet.availability import is_installed, version_of
from d2_unsupdet.cli import Parser
from d2_unsupdet.detectron2_edits import EDITS, Edit
from d2_unsupdet.errors import UserError

SDIST = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
VERSION = "0.6"
DIST_INFO = f"detectron2-{VERSION}.dist-info"
MARKER = "d2_unsupdet-edits.sha256"

# Three of Detectron2's projects are part of its package, as in the official setup.py.
PROJECTS = {
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
    "projects/Panoptic-DeepLab/panoptic_deeplab": "detectron2/projects/panoptic_deeplab",
}

# What the Python code imports. Left out of the official list: `future` and `pydot` (caffe2 only),
# `black` (one printing function) and `tensorboard` (imported only by its own writer).
REQUIRES = (
    "cloudpickle",
    "fvcore>=0.1.5",
    "hydra-core>=1.1",
    "iopath>=0.1.7",
    "matplotlib",
    "numpy",
    "omegaconf>=2.1",
    "pillow>=7.1",
    "pycocotools>=2.0.2",
    "pyyaml>=5.1",
    "tabulate",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.8",
)


def check_hash(sdist: Path, sha256: str = SHA256) -> None:
    """Refuse a source distribution other than the one the edits were written for."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != sha256:
        raise UserError(
            f"{sdist.name} has SHA-256 {found} instead of {sha256}, so nothing was installed: "
            f"download {SDIST} from PyPI again."
        )


def read_sources(sdist: Path) -> dict[str, bytes]:
    """The files of the package in a source distribution, by their path in the wheel."""
    files = {}
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:]).as_posix()
            for source, target in PROJECTS.items():
                if path.startswith(source + "/"):
                    path = target + path.removeprefix(source)
            content = archive.extractfile(member)
            if content and (path.startswith("detectron2/") or path == "LICENSE"):
                files[path] = content.read()
    return files


def apply_edits(files: Mapping[str, bytes], edits: Iterable[Edit] = EDITS) -> dict[str, bytes]:
    """`files` with every edit applied; an edit that does not match exactly is an error."""
    edited = dict(files)
    for edit in edits:
        if edit.old is None:
            found, expected = int(edit.file in edited), 0
        else:
            found, expected = edited.get(edit.file, b"").count(edit.old.encode()), edit.count
        if found != expected:
            what = "the new file" if edit.old is None else repr(edit.old)
            raise UserError(
                f"The edit of {edit.file} ({edit.why}) found {what} {found} times instead of "
                f"{expected}, so nothing was installed: this is not the source of {SDIST}."
            )
        old, new = (edit.old or "").encode(), edit.new.encode()
        edited[edit.file] = edited[edit.file].replace(old, new) if edit.old is not None else new
    return edited


def edits_digest(edits: Iterable[Edit] = EDITS) -> str:
    """Identifies a list of edits, so that a wheel built from an older list is rebuilt."""
    effects = [(edit.file, edit.old, edit.new, edit.count) for edit in edits]
    return hashlib.sha256(repr(effects).encode()).hexdigest()


def write_wheel(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write the wheel of `files`. Equal files give equal bytes (sorted, no time stamps)."""
    content = {path: data for path, data in files.items() if path.startswith("detectron2/")}
    content |= {f"{DIST_INFO}/{name}": data for name, data in _dist_info(files).items()}
    record = f"{DIST_INFO}/RECORD"
    lines = [f"{path},{_record_hash(data)},{len(data)}\n" for path, data in sorted(content.items())]
    content[record] = "".join([*lines, f"{record},,\n"]).encode()

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in sorted(content.items()):
            info = zipfile.ZipInfo(path)  # dated 1980, the start of zip's time
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, data)
    wheel = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    wheel.write_bytes(buffer.getvalue())
    return wheel


def _dist_info(files: Mapping[str, bytes]) -> dict[str, bytes]:
    headers = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: Detectron2 v0.6, pure Python build by d2_unsupdet (no compiled operators)",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "Author: FAIR",
        "License: Apache-2.0",
        "Requires-Python: >=3.8",
        *(f"Requires-Dist: {requirement}" for requirement in (*REQUIRES, "torch", "torchvision")),
        "Provides-Extra: tensorboard",
        'Requires-Dist: tensorboard; extra == "tensorboard"',
    ]
    wheel = ["Wheel-Version: 1.0", "Generator: d2_unsupdet", "Root-Is-Purelib: true"]
    return {
        "METADATA": "\n".join([*headers, "", ""]).encode(),
        "WHEEL": "\n".join([*wheel, "Tag: py3-none-any", ""]).encode(),
        "top_level.txt": b"detectron2\n",
        "LICENSE": files["LICENSE"],
        MARKER: edits_digest().encode(),
    }


def _record_hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"


def download(folder: Path) -> Path:
    """Fetch the source distribution with pip, from whatever index pip is set up to use.

    pip runs the distribution's setup.py for its metadata (which imports torch and setuptools), so
    it is given the hash and checks it before that.
    """
    if not is_installed("setuptools"):
        raise UserError(
            f"Reading {SDIST} needs setuptools, which is missing: "
            f"run `{sys.executable} -m pip install setuptools wheel` and then this command again."
        )
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SHA256}\n")
    # fmt: off
    result = _pip(
        "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation",
        "--require-hashes", "--retries", "2", "--dest", str(folder), "-r", str(requirements),
    )
    # fmt: on
    found = sorted(folder.glob("*.tar.gz"))
    if result.returncode or not found:
        raise UserError(_download_error(result.stdout + result.stderr))
    return found[0]


def _download_error(output: str) -> str:
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"{SDIST} on this package index does not have SHA-256 {SHA256}, so nothing was "
            "installed: use pypi.org, or pass the right file with --from-file."
        )
    network = ("connection broken", "NewConnectionError", "Could not find a version", "timed out")
    if any(sign in output for sign in network):
        return (
            f"{SDIST} could not be downloaded because the package index cannot be reached: check "
            "the network, or pass the file with --from-file."
        )
    return f"pip could not download {SDIST} ({_last_error(output)}): pass it with --from-file."


def _last_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no output"]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    if arguments[0] == "download":
        environment.pop("PIP_CONSTRAINT", None)  # constraints without hashes clash with our hash
        environment["CUDA_VISIBLE_DEVICES"] = ""  # its setup.py looks for a CUDA compiler otherwise
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def install_wheel(wheel: Path) -> str:
    """Install the wheel and what it imports; return the place. A failure leaves nothing behind."""
    missing = [name for name in REQUIRES if version_of(_name(name)) is None]
    for arguments in (missing, ["--no-deps", "--force-reinstall", str(wheel)]):
        result = _pip("install", "--quiet", *arguments) if arguments else None
        if result and result.returncode:
            error = _last_error(result.stderr or result.stdout)
            raise UserError(f"pip could not install {arguments[-1]}: {error}.")
    place, error = find_detectron2()
    if place is None:
        _pip("uninstall", "--yes", "detectron2")
        raise UserError(f"The built Detectron2 did not import and was removed again: {error}.")
    return place


def _name(requirement: str) -> str:
    return requirement.split(">")[0]


def find_detectron2() -> tuple[str | None, str]:
    """(version and place, "") of a Detectron2 that imports, or (None, why it does not)."""
    if not is_installed("detectron2"):
        return None, ""
    code = "import detectron2 as d; print(d.__version__, 'in', d.__path__[0])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (result.stderr if result.returncode else result.stdout).strip().splitlines()
    return (None, lines[-1]) if result.returncode else (lines[-1], "")


def is_outdated() -> bool:
    """Whether the installed Detectron2 is a wheel of ours from another list of edits."""
    try:
        marker = metadata.distribution("detectron2").read_text(MARKER)
    except metadata.PackageNotFoundError:
        return False
    return marker is not None and marker != edits_digest()


def run(sdist: Path | None = None, sha256: str = SHA256) -> str:
    """Make sure that a Detectron2 is installed; return the line that says what was done."""
    if is_installed("detectron2") and not is_outdated():
        place, error = find_detectron2()
        if place is None:
            raise UserError(
                f"A detectron2 is installed but does not import ({error}): mend that, or remove "
                "it with `pip uninstall detectron2` and run this command again."
            )
        return f"Detectron2 {place} is already installed: nothing to do."
    if not is_installed("torch") or not is_installed("torchvision"):
        raise UserError(
            "Detectron2 needs PyTorch and torchvision, which are not installed: "
            "run `pip install torch torchvision` first."
        )
    if sdist is not None and not sdist.is_file():
        raise UserError(f"There is no file {sdist}: give the path of {SDIST}'s .tar.gz.")
    with tempfile.TemporaryDirectory() as folder:
        sdist = sdist or download(Path(folder))
        check_hash(sdist, sha256)
        files = apply_edits(read_sources(sdist))
        place = install_wheel(write_wheel(files, Path(folder)))
    return f"Installed Detectron2 {place} (pure Python, {len(EDITS)} edits)."


def main(arguments: list[str] | None = None) -> int:
    """Command line: 0 when a Detectron2 is there at the end, 2 and one sentence otherwise."""
    parser = Parser(prog="d2_unsupdet.install_detectron2", description=__doc__)
    parser.add_argument("--from-file", type=Path, metavar="SDIST", help=f"{SDIST}, downloaded")
    try:
        print(run(parser.parse_args(arguments).from_file))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
