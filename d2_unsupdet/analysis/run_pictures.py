"""The pictures of a run folder, read without trusting it: nothing outside the folder is touched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2_unsupdet.analysis.safe_files import (
    Unreadable,
    file_size,
    is_inside,
    is_number,
    read_json,
    whole_number,
)

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_LARGEST = 64_000_000  # bytes of a picture; a sheet of many images has some millions
_REMARKS = 5  # sentences about single pictures


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
    folder = run_dir / "pictures"
    if not folder.is_dir():
        return [], []
    if not is_inside(folder, run_dir):
        return [], ["Its folder pictures is a link to another place and was left out."]
    entries, notes = _read_index(folder)
    pictures: dict[Path, Picture] = {}
    bad: list[str] = []
    for entry in entries:
        name = str(entry.get("file", ""))
        path = folder / name
        reason = _refused(path, folder)
        if reason:
            bad.append(f"{reason}: {name[:80]}.")
        else:
            pictures[path.resolve()] = _picture(path, entry)
    for path in sorted(folder.glob("*.png")) + sorted(folder.glob("*.jpg")):
        if path.resolve() in pictures:
            continue
        reason = _refused(path, folder)
        if reason:
            bad.append(f"{reason}: {path.name[:80]}.")
        else:
            pictures[path.resolve()] = Picture(path, path.stem.replace("_", " "), "pictures")
    notes += bad[:_REMARKS]
    if len(bad) > _REMARKS:
        notes.append(f"{len(bad) - _REMARKS} more pictures were left out for such reasons.")
    return list(pictures.values()), notes


def _refused(path: Path, folder: Path) -> str:
    """Why a picture is not shown; empty if it is."""
    if not is_inside(path, folder):
        return "A picture outside the run folder was left out"
    size = file_size(path, folder)
    if size is None:
        return "There is no such picture file"
    if path.suffix.lower() not in _ENDINGS:
        return "A file that is no PNG, JPEG or WebP was left out"
    if size > _LARGEST:
        return f"A picture of more than {_LARGEST / 1e6:g} MB was left out"
    return ""


def _read_index(folder: Path) -> tuple[list[Mapping[str, Any]], list[str]]:
    try:
        entries = read_json(folder / "index.json", folder)
    except FileNotFoundError:
        return [], []
    except Unreadable as error:
        return [], [f"pictures/index.json {error}, so captions are missing."]
    if not isinstance(entries, list):
        return [], ["pictures/index.json is not a JSON list, so captions are missing."]
    return [entry for entry in entries if isinstance(entry, dict)], []


def _picture(path: Path, entry: Mapping[str, Any]) -> Picture:
    value: Any = entry.get("value")
    return Picture(
        path,
        str(entry.get("caption", path.stem)),
        str(entry.get("group", "pictures")),
        value=float(value) if is_number(value) else None,
        iteration=whole_number(entry.get("iteration")),
        image=_text(entry.get("image")),
        alt=_text(entry.get("alt")),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
