"""What several readers share: warnings said once, paths that must stay inside their folder."""

import logging
import os
from pathlib import Path

from detectron2.utils.logger import log_first_n

from d2_unsupdet.errors import UserError

LOGGER = "d2_unsupdet.data"


def warn_once(message: str) -> None:
    """Log a warning; the same message is not repeated in this process."""
    log_first_n(logging.WARNING, message, n=1, name=LOGGER, key="message")


def count_text(count: int, noun: str) -> str:
    """`"1 box"`, `"3 boxes"`."""
    plural = noun + ("es" if noun.endswith(("x", "s")) else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def read_text(path: Path) -> str:
    """A text file that people write; an editor's mark at its beginning is no part of it."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text in UTF-8 (byte {error.start:,}): save it as UTF-8."
        ) from error


def read_names(path: Path) -> list[str]:
    """One name a line; blank lines are none."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def inside(root: Path, name: str, source: Path) -> str:
    """`root / name`; refuses a name that leads out of the folder.

    Args:
        root: the folder of the images.
        name: a file name found in an annotation file, thus not to be trusted.
        source: that annotation file, for the message.
    """
    relative = os.path.normpath(name.replace("\\", "/")) if isinstance(name, str) else ""
    if not relative or relative == "." or os.path.isabs(relative) or relative.startswith(".."):
        raise UserError(
            f"{source} names the file {name!r}, which is not inside the image folder {root}; "
            "write file names relative to that folder."
        )
    return os.path.join(root, relative)


def first_must_exist(records: list[dict], source: Path) -> None:
    """One cheap check that images and labels belong together (not one `stat` per image)."""
    if records and not os.path.exists(records[0]["file_name"]):
        raise UserError(
            f"{source} names {records[0]['file_name']}, which does not exist; "
            "check the image folder given with it."
        )
