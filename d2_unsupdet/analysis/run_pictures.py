"""The pictures of a run folder, read without trusting it: nothing outside the folder is touched."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Picture:
    """A file of the run's `pictures`.

    Args:
        path: of the file.
        caption: one line below it.
        group: "views", "predictions", "failures" or any other word.
        value: what the group is sorted by, such as the image's loss.
        iteration: steps done by then.
        image: name of the image that it shows; the same in several runs is compared.
        alt: its text alternative, where that is not the caption.
    """

    path: Path
    caption: str
    group: str
    value: float | None = None
    iteration: int | None = None
    image: str | None = None
    alt: str | None = None

    @property
    def shown(self) -> str:
        """What tells whether two pictures show the same image."""
        return self.image or self.caption


def read_pictures(run_dir: Path) -> tuple[list[Picture], list[str]]:
    """Pictures in the index's order, then those that it does not name; and remarks."""
    folder = (run_dir / "pictures").resolve()
    if not folder.is_dir():
        return [], []
    entries, notes = _read_index(folder / "index.json")
    pictures: dict[Path, Picture] = {}
    for entry in entries:
        path = (folder / str(entry.get("file", ""))).resolve()
        if not path.is_relative_to(folder):
            notes.append(f"A picture outside the run folder was left out: {entry.get('file')}.")
        elif path.is_file():
            pictures[path] = _picture(path, entry)
        else:
            notes.append(f"A picture of the index does not exist: {entry.get('file')}.")
    for path in sorted(folder.glob("*.png")) + sorted(folder.glob("*.jpg")):
        pictures.setdefault(path, Picture(path, path.stem.replace("_", " "), "pictures"))
    return list(pictures.values()), notes


def _read_index(path: Path) -> tuple[list[Mapping[str, Any]], list[str]]:
    if not path.exists():
        return [], []
    try:
        entries = json.loads(path.read_text(errors="replace"))
    except (OSError, ValueError):
        entries = None
    if not isinstance(entries, list):
        return [], ["pictures/index.json is not a JSON list, so captions are missing."]
    return [entry for entry in entries if isinstance(entry, dict)], []


def _picture(path: Path, entry: Mapping[str, Any]) -> Picture:
    value, iteration = _number(entry.get("value")), _number(entry.get("iteration"))
    return Picture(
        path,
        str(entry.get("caption", path.stem)),
        str(entry.get("group", "pictures")),
        value=value,
        iteration=None if iteration is None else round(iteration),
        image=_text(entry.get("image")),
        alt=_text(entry.get("alt")),
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
