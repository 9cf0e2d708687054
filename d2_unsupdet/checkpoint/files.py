"""Files of weights: read without trusting them, written so that a crash leaves the old or the new.

`torch.load` and `pickle.load` run code that a file brings along; nothing here does, unless the
caller says `allow_unsafe` for that one file. A failed safe read is never repeated in an unsafe way.
"""

import argparse
import errno
import hashlib
import json
import logging
import os
import pickle
import re
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from d2_unsupdet.checkpoint.unpickle import RefusedGlobal, restricted_load
from d2_unsupdet.errors import UserError, nearest

log = logging.getLogger(__name__)

TEMPORARY = ".{name}.{token}.tmp"  # beside its target: a rename does not cross file systems
_WRAPPERS = ("model", "state_dict", "model_state_dict")  # where training scripts keep the weights
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class LoadedFile:
    """The tensors of one file under the file's own names, and the plain values beside them.

    Args:
        path: where it was read.
        state: name -> tensor on the CPU.
        meta: text and numbers found beside the weights (author, epoch, arguments, ...).
    """

    path: Path
    state: dict[str, torch.Tensor]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Digest:
    """Size and SHA-256 of what was written."""

    size: int
    sha256: str


def read_weights(
    path: str | Path, *, allow_unsafe: bool = False, expected_sha256: str | None = None
) -> LoadedFile:
    """Read `.safetensors`, a torch file (`.pth`, `.pt`, `.bin`, `.tar`) or a Detectron2 `.pkl`."""
    path = Path(path)
    check_exists(path)
    if expected_sha256 is not None:
        check_sha256(path, expected_sha256)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        return _unwrap(path, _read_pickled(path, allow_unsafe))
    except RefusedGlobal as error:
        raise UserError(
            f"{path} asks to run {error.name}, which weights do not need, and was not loaded; if "
            "you trust where it comes from, repeat with --allow-unsafe."
        ) from None


def check_exists(path: Path) -> None:
    """Raise a UserError that names the nearest file when `path` is not a file."""
    if path.is_file():
        return
    if path.is_dir():
        exports = [path / name for name in ("export.safetensors", "model_final.pth")]
        found = next((str(file) for file in exports if file.is_file()), "a file in it")
        raise UserError(f"{path} is a folder, and a file is needed: {found}.")
    folder = path.parent
    if not folder.is_dir():
        there = next(parent for parent in folder.parents if parent.is_dir())
        missing = folder.relative_to(there).parts[0]
        folders = [entry.name for entry in _entries(there) if entry.is_dir()]
        why = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"There is no file {path}: its folder {folder} {why}"
            f"{_looked_in(path, there)}.{nearest(missing, folders)}"
        )
    names = [entry.name for entry in _entries(folder) if entry.is_file()]
    raise UserError(
        f"There is no file {path}{_looked_in(path, folder)}.{nearest(path.name, names)}"
    )


def _looked_in(path: Path, folder: Path) -> str:
    """Where a relative path was looked for, which the path does not tell."""
    return "" if path.is_absolute() else f" (looked in {folder.resolve()})"


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # may be entered and not listed
        return []


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raise a UserError unless the file's SHA-256 begins with `expected` (at least 8 digits)."""
    found = sha256(path)
    if len(expected) < 8 or not found.startswith(expected.lower()):
        raise UserError(f"{path} has SHA-256 {found}, not the expected {expected}; fetch it again.")


def atomic_write(
    path: str | Path,
    writer: Callable[[BinaryIO], object],
    *,
    before_replace: Callable[[Digest], object] | None = None,
) -> Digest:
    """Let `writer` fill a temporary file, sync it and rename it to `path`; hash on the way.

    `writer` gets a stream to write to, nothing else (no seek). `before_replace` runs when the new
    bytes are safe on disk but `path` still holds the old ones.
    """
    path = Path(path)
    temporary = path.with_name(TEMPORARY.format(name=path.name, token=secrets.token_hex(4)))
    hashing = None
    try:
        with open(temporary, "xb") as file:
            hashing = _HashingFile(file)
            writer(hashing)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        if before_replace is not None:
            before_replace(hashing.digest())
        os.replace(temporary, path)
        _sync_folder(path.parent)
        return hashing.digest()
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        # torch's zip writer may turn our OSError into an error of its own: look for the first cause
        cause = hashing.error if hashing and hashing.error else error
        if isinstance(cause, OSError):
            raise UserError(
                f"Cannot write {path}: {cause.strerror or cause}; what was there before is "
                "untouched, so make room or pick another output folder and run again."
            ) from cause
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(value, indent=2) + "\n"
    atomic_write(path, lambda file: file.write(text.encode()))


class _HashingFile:
    """A write-only binary file that hashes what passes and remembers the first disk error."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self._hash.update(data)
        self._size += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> Digest:
        return Digest(self._size, self._hash.hexdigest())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; some network file systems have no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _read_safetensors(path: Path) -> LoadedFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return LoadedFile(path, state, dict(file.metadata() or {}))
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}).") from None


def _read_pickled(path: Path, allow_unsafe: bool) -> Any:
    """By content, not by name: a zip is torch's; a bare pickle named `.pkl` is Detectron2's."""
    with open(path, "rb") as file:
        head = file.read(4)
    is_torch = head == _ZIP or path.suffix != ".pkl"
    if allow_unsafe:
        log.warning("%s is read without restrictions; code inside it runs.", path)
        return _read_unsafe(path, is_torch)
    try:
        if is_torch:
            return _read_torch(path)
        with open(path, "rb") as file:
            return restricted_load(file)
    except RefusedGlobal:
        raise
    except Exception as error:  # a hostile file chooses what it raises
        log.debug("%s: %s", path, error)  # PyTorch's own words are advice to programmers
        raise UserError(f"{path} is not a file of weights: {_why_not(head)}.") from None


def _read_unsafe(path: Path, is_torch: bool) -> Any:
    if is_torch:
        return torch.load(path, map_location="cpu", weights_only=False)
    with open(path, "rb") as file:
        return pickle.load(file, encoding="latin1")  # asked for, for this one file


def _read_torch(path: Path) -> Any:
    _warn_old_torch()
    try:
        with _namespace_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|class|function|type) '?([\w]+(?:\.[\w]+)+)", str(error))
        if refused:
            raise RefusedGlobal(refused[1]) from None
        raise


@contextmanager
def _namespace_allowed() -> Iterator[None]:
    """Official DETR-family files keep their command line as an `argparse.Namespace`."""
    if hasattr(torch.serialization, "safe_globals"):
        with torch.serialization.safe_globals([argparse.Namespace]):
            yield
        return
    before = torch.serialization.get_safe_globals()  # torch 2.4 has no context manager
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@cache
def _warn_old_torch() -> None:
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    if version < (2, 10):
        warnings.warn(
            f"torch {torch.__version__} has known ways around its safe loading (CVE-2025-32434, "
            "CVE-2026-24747): load .pth files from strangers with torch 2.10 or newer only.",
            stacklevel=2,
        )


def _unwrap(path: Path, content: Any) -> LoadedFile:
    """Find the tensors in what a training script saved around them.

    Of a run with a moving average that is the average: it is what the run's scores are of.
    """
    meta: dict[str, Any] = {}
    average = content.get("ema") if isinstance(content, Mapping) else None
    if isinstance(average, Mapping) and average.keys() == {"updates", "average"}:
        log.info("%s: taking the moving average of the weights.", path)
        content = {**content, "model": average["average"]}
    while isinstance(content, Mapping):
        inner = next((k for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        meta.update({k: v for k, v in content.items() if _is_plain(v)})
        content = content[inner]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors.")
    state = {str(name): t for name, v in content.items() if (t := _tensor(v)) is not None}
    skipped = [str(name) for name in content if str(name) not in state]
    if not state:
        raise UserError(f"{path} holds no tensors; its entries are {', '.join(skipped[:8])}.")
    if skipped:
        log.warning("%s: %d entries are not tensors: %s", path, len(skipped), skipped[:8])
    return LoadedFile(path, state, meta)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | argparse.Namespace)


def _tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        native = value.astype(value.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(np.require(native, requirements=["C", "W"]))
    return value.detach() if isinstance(value, torch.Tensor) else None


def _why_not(head: bytes) -> str:
    """In words, by the first bytes of what could not be read."""
    if head == _ZIP or head[:1] == pickle.PROTO:
        return "it begins like one but cannot be read, cut short perhaps; fetch or copy it again"
    return "it begins like none; give a .safetensors, .pth or .pkl file that training wrote"
