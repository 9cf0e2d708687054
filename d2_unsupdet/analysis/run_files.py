"""The files that a run leaves to others, with the hashes that it wrote down itself.

Checkpoints are not read here, since a report may not take minutes: the SHA-256 is the one of the
manifest beside the file, and a file whose size is another is said to be changed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROLES = {"model_final.pth": "end of training", "model_best.pth": "best score"}


@dataclass(frozen=True)
class RunFile:
    """A file that a run names.

    Args:
        path: where it is or was.
        role: what it is, in two words.
        size: in bytes; None when the file is gone and nobody wrote it down.
        sha256: as written down when the file was; None if nobody did.
        state: "" where all is well, else what is not: "gone", "changed since".
    """

    path: Path
    role: str
    size: int | None = None
    sha256: str | None = None
    state: str = ""


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
        content = path.read_bytes()
    except OSError:
        return None
    return RunFile(path, "configuration", len(content), hashlib.sha256(content).hexdigest())


def _export(run_dir: Path, entry: Mapping[str, Any]) -> RunFile:
    """A run folder may have been moved: a file of that name in it is the one."""
    path = Path(entry["file"])
    own = run_dir / path.name
    path = own if own.is_file() or not path.is_file() else path
    return _checked(path, "exported weights", None, entry.get("sha256"))


def _checkpoint(path: Path) -> RunFile:
    try:
        said = json.loads(path.with_name(path.name + ".json").read_text(errors="replace"))
    except (OSError, ValueError):
        said = {}
    said = said if isinstance(said, dict) else {}
    step = said.get("iteration")
    role = _ROLES.get(path.name, f"step {step + 1:,}" if isinstance(step, int) else "checkpoint")
    score = said.get("score")
    if isinstance(score, int | float) and said.get("metric"):
        role += f": {said['metric']} {score:.2f}"
    size = said.get("size")
    return _checked(path, role, size if isinstance(size, int) else None, said.get("sha256"))


def _checked(path: Path, role: str, size: int | None, sha256: Any) -> RunFile:
    digest = sha256 if isinstance(sha256, str) and len(sha256) == 64 else None
    try:
        found = path.stat().st_size
    except OSError:
        return RunFile(path, role, size, digest, "gone")
    changed = size is not None and size != found
    return RunFile(path, role, found, digest, "changed since" if changed else "")
