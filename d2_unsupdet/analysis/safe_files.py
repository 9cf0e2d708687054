"""Reads the small files of a run folder that may be damaged or made to do harm.

Only regular files that really lie inside the folder: a link out of it would put a stranger's file
into a page that is mailed, and a pipe would block for ever. What is too large, too deep or grows
too much by YAML's aliases is refused before it is built; whatever is refused raises `Unreadable`.
"""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, TypeGuard

import yaml

SMALL = 4_000_000  # bytes of a config, a summary, an index; real ones have some thousands
LARGEST = 1e100  # no loss or score has more; sums, means and squares of such values stay finite
_DEPTH = 64  # levels of nesting; real configs have about ten
_EXPANDED = 10_000_000  # characters once aliases are followed and names are joined with dots
_DIGITS = 1000
_WHOLE = 2**53  # from there on a whole number is none to a reader in another language
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one reads ten times faster


class Unreadable(Exception):
    """A file that was not read; its text is the end of a sentence about it: "is too large"."""


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path lies in the folder once all links are followed; the folder may be a link."""
    try:
        real, root = os.path.realpath(path), os.path.realpath(folder)
    except (OSError, ValueError):  # a NUL or half a surrogate pair in the name
        return False
    return Path(real).is_relative_to(root)


def file_size(path: Path, folder: Path) -> int | None:
    """Bytes of a regular file inside the folder; None for everything else."""
    try:
        told = path.stat() if is_inside(path, folder) else None
    except (OSError, ValueError):
        return None
    return told.st_size if told is not None and stat.S_ISREG(told.st_mode) else None


def read_bytes(path: Path, folder: Path, *, limit: int = SMALL) -> bytes:
    """The whole file; raises `FileNotFoundError` where there is none."""
    if not os.path.lexists(path):
        raise FileNotFoundError(path)
    if not is_inside(path, folder):
        raise Unreadable("is a link to a file outside the run folder")
    try:
        with open(os.open(path, _FLAGS), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable("is no regular file")
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise Unreadable("cannot be opened") from error
    if len(content) > limit:
        raise Unreadable(f"has more than {limit / 1e6:g} MB")
    return content


def read_text(path: Path, folder: Path, *, limit: int = SMALL) -> str:
    """As UTF-8, with a sign in place of what is none."""
    return read_bytes(path, folder, limit=limit).decode("utf-8", "replace")


def read_json(path: Path, folder: Path, *, limit: int = SMALL) -> Any:
    """Plain values, see `parse_json`."""
    return parse_json(read_text(path, folder, limit=limit))


def parse_json(text: str) -> Any:
    """Plain values whose numbers are finite: JSON that Python writes may hold NaN, which is None
    here."""
    return _tame(load_json(text), finite=True)


def load_json(text: str) -> Any:
    """As it stands, of any depth and with any numbers: for a caller that takes single values."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError, OverflowError, MemoryError) as error:
        raise Unreadable("is not JSON") from error


def parse_yaml(text: str) -> Any:
    """Plain values; the growth by aliases is counted before anything is built."""
    try:
        _check_growth(text)
        value = yaml.load(text, Loader=_Loader)  # safe: both loaders build plain values only
    # `!!bool x`, `!!int ''` and `!!timestamp x` leave PyYAML as the last four.
    except (
        *(yaml.YAMLError, RecursionError, OverflowError, MemoryError),
        *(ValueError, KeyError, IndexError, AttributeError, TypeError),
    ) as error:
        raise Unreadable("is not YAML") from error
    return _tame(value, finite=False)


def is_number(value: object) -> TypeGuard[float]:
    """A number that can be added to others and drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST  # False for NaN


def whole_number(value: Any) -> int | None:
    """A count such as an iteration, from 0."""
    return int(value) if is_number(value) and 0 <= value < _WHOLE else None


def _check_growth(text: str) -> None:
    """Raises where the document is too deep, contains itself or becomes too large."""
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = [(None, 0)]

    def add(size: int) -> None:
        anchor, before = opened[-1]
        if before + size > _EXPANDED:
            raise Unreadable("becomes too large by its aliases")
        opened[-1] = anchor, before + size

    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            if event.anchor:
                sizes.pop(event.anchor, None)  # inside itself it is not known
            opened.append((event.anchor, 0))
            if len(opened) > _DEPTH:
                raise Unreadable("is nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
            if anchor:
                sizes[anchor] = size
            add(size)
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > _DIGITS and (event.tag or event.value[0] in "+-.0123456789"):
                raise Unreadable("holds a number that is too long")  # of base 60: hours
            size = 16 + len(event.value)
            if event.anchor:
                sizes[event.anchor] = size
            add(size)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise Unreadable("contains itself")
            add(16 + sizes[event.anchor])


def _tame(value: Any, *, finite: bool) -> Any:
    """A copy of plain values only: names are text that files can have, whole numbers are short."""
    left = _EXPANDED

    def copy(value: Any, depth: int, prefix: int) -> Any:
        nonlocal left
        left -= 16 + prefix + (len(value) if isinstance(value, str) else 0)
        if depth > _DEPTH:
            raise Unreadable("is nested too deeply")
        if left < 0:
            raise Unreadable("becomes too large")
        if isinstance(value, dict):
            names = {_text(str(_scalar(key, finite))): one for key, one in value.items()}
            return {n: copy(one, depth + 1, prefix + len(n)) for n, one in names.items()}
        if isinstance(value, list):
            return [copy(one, depth + 1, prefix) for one in value]
        return _scalar(value, finite)

    return copy(value, 1, 0)


def _scalar(value: Any, finite: bool) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**64 else None
    if isinstance(value, float):
        return value if not finite or math.isfinite(value) else None
    return _text(str(value))  # YAML's dates, sets and pairs too


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
