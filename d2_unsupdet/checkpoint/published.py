"""Folders of weights that tools/publish.py made, on disk or on the Hugging Face hub.

A folder holds `model.safetensors`, the run's `config.yaml`, a model card and `manifest.json`, whose
size and SHA-256 are compared at every load: a file cut short, or a pointer of git LFS in its place,
is a sentence and not a strange model.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

from d2_unsupdet.checkpoint.files import sha256
from d2_unsupdet.checkpoint.hub import PREFIX, fetch
from d2_unsupdet.errors import UserError

log = logging.getLogger(__name__)

MODEL, CONFIG, CARD, MANIFEST = "model.safetensors", "config.yaml", "README.md", "manifest.json"
FORMAT = "d2_unsupdet published weights"
WHOLE, EXPORT = "model", "export"  # of a detector or pretext everything, or what transfers of it
_BARE_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def is_published(path: str | Path) -> bool:
    """Whether this is a published folder, and not that of a run or any other."""
    return (Path(path) / MANIFEST).is_file()


def located(source: str | Path) -> Path:
    """The file that a path, a published folder or `hub:owner/name[@revision]` stands for.

    The hub is asked where the prefix says so and at no other time.
    """
    if str(source).startswith(PREFIX):
        return model_file(fetch(str(source)), label=str(source))
    path = Path(source)
    if is_published(path):
        return model_file(path)
    if _BARE_HUB_NAME.fullmatch(str(source)) and not path.exists() and not path.parent.exists():
        raise UserError(
            f"There is no file {source}: its folder {path.parent} does not exist; if you mean a "
            f"repository of the Hugging Face hub, say {PREFIX}{source}."
        )
    return path


def model_file(folder: Path, *, label: str | None = None) -> Path:
    """The folder's weights, after a look at their size and hash."""
    label, path = label or str(folder), folder / MODEL
    if not path.is_file():
        raise UserError(f"{label} holds no {MODEL}: copy or publish the folder again.")
    if not is_published(folder):
        log.warning(
            "%s has no %s, so its weights are taken as they are; train.init.expected_sha256=%s "
            "holds you to these.",
            label,
            MANIFEST,
            sha256(path),
        )
        return path
    said = read_manifest(folder)["files"][MODEL]
    size = path.stat().st_size
    if size != said["size"]:
        raise UserError(
            f"{path} has {size} bytes and {MANIFEST} says {said['size']}: it was cut short, or is "
            "a pointer of git LFS (git lfs pull fetches the file); copy the folder again."
        )
    if (found := sha256(path)) != said["sha256"]:
        raise UserError(
            f"{path} has SHA-256 {found} and {MANIFEST} says {said['sha256']}: the weights are not "
            "those that were published; copy the folder again."
        )
    return path


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What a published folder says about itself; a UserError if that cannot be read."""
    path = Path(folder) / MANIFEST
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        entry = value["files"][MODEL]
        good = value["format"] == FORMAT and isinstance(entry["sha256"], str)
        good = good and isinstance(entry["size"], int) and value["content"] in (WHOLE, EXPORT)
    except (OSError, ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise UserError(f"{path} is not a manifest of tools/publish.py: publish the run again.")
    return value


def is_export(folder: str | Path) -> bool:
    """Whether a published folder holds what a pretext exports, which is no whole model."""
    return is_published(folder) and read_manifest(folder)["content"] == EXPORT


def whole_model(folder: str | Path) -> Path:
    """The weights of a published folder that holds a whole model."""
    if is_export(folder):
        raise UserError(
            f"{folder} holds what a pretext exports, which cannot answer by itself: start from it "
            f"by train.init_checkpoint={folder}, or publish the run with --whole."
        )
    return model_file(Path(folder))
