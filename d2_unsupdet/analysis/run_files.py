"""The files that a run leaves to others, with the hashes that it wrote down itself.

Checkpoints are not read here, since a report may not take minutes: the SHA-256 is the one of the
manifest beside the file, and a file whose size is another is said to be changed.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d2_unsupdet.analysis.safe_files import Unreadable, file_size, is_number, read_bytes, read_json

_ROLES = {"model_final.pth": "end of training", "model_best.pth": "best score"}


@dataclass(frozen=True)
class RunFile:
    """A file that a run names.

    Args:
        path: where it is or was.
        role: what it is, in two words.
        size: in bytes; None when the file is gone and nobody wrote it down.
        sha256: as written down when the file was; None if nobody did.
        state: "" where all is well, else what is not: "gone", "changed since", "elsewhere" for a
            link out of the run folder, of which only the name is told.
        score: that it was kept for.
        metric: name of the score.
    """

    path: Path
    role: str
    size: int | None = None
    sha256: str | None = None
    state: str = ""
    score: float | None = None
    metric: str = ""


def read_files(run_dir: Path, summary: Mapping[str, Any]) -> list[RunFile]:
    """The config, what a pretraining exports, and the checkpoints; newest first."""
    files = [_config(run_dir / "config.yaml")]
    exports = summary.get("exports")
    for entry in exports if isinstance(exports, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("file"), str):
            files.append(_export(run_dir, entry))
    names = {path.name for path in run_dir.glob("model_*.pth")}
    names |= {path.name.removesuffix(".json") for path in run_dir.glob("model_*.pth.json")}
    order = sorted(names, key=lambda name: (name not in _ROLES, name), reverse=True)
    order.sort(key=lambda name: list(_ROLES).index(name) if name in _ROLES else len(_ROLES))
    files += [_checkpoint(run_dir / name) for name in order]
    return [file for file in files if file is not None]


def _config(path: Path) -> RunFile | None:
    try:
        content = read_bytes(path, path.parent)
    except (OSError, Unreadable):
        return None
    return RunFile(path, "configuration", len(content), hashlib.sha256(content).hexdigest())


def _export(run_dir: Path, entry: Mapping[str, Any]) -> RunFile:
    """A run folder may have been moved, and a summary may name any file of this machine: the file
    of that name in the folder is the one."""
    path = run_dir / Path(entry["file"]).name
    return _checked(path, "exported weights", None, entry.get("sha256"))


def _checkpoint(path: Path) -> RunFile:
    try:
        said = read_json(path.with_name(path.name + ".json"), path.parent)
    except (OSError, Unreadable):
        said = {}
    said = said if isinstance(said, dict) else {}
    step = said.get("iteration")
    role = _ROLES.get(path.name, f"step {step + 1:,}" if isinstance(step, int) else "checkpoint")
    size, score = said.get("size"), said.get("score")
    file = _checked(path, role, size if isinstance(size, int) else None, said.get("sha256"))
    if is_number(score) and said.get("metric"):
        return replace(file, score=float(score), metric=str(said["metric"]))
    return file


def _checked(path: Path, role: str, size: int | None, sha256: Any) -> RunFile:
    is_digest = isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)
    digest = sha256 if is_digest else None
    found = file_size(path, path.parent)
    if found is None:
        return RunFile(path, role, size, digest, "elsewhere" if path.is_symlink() else "gone")
    changed = size is not None and size != found
    return RunFile(path, role, found, digest, "changed since" if changed else "")
