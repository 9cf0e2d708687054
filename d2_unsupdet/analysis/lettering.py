"""Text in pictures: a font that knows more than English, and labels that do not cover each other.

Pillow's own font has ASCII only and draws an empty box for anything else, without a word.
Matplotlib, which Detectron2 needs, ships DejaVu Sans: Latin, Greek, Cyrillic, Hebrew, Arabic.
"""

import functools
import logging
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from PIL import ImageFont

Color = tuple[int, int, int]
_NAME = "DejaVuSans.ttf"
_UNSEEN = {"Cc", "Cf", "Mn"}  # joiners, variation selectors: nothing is lost without them

log = logging.getLogger(__name__)
_said: set[str] = set()


@functools.cache
def font(size: int) -> Any:
    """DejaVu Sans, or Pillow's own where that is missing."""
    path = _path()
    try:
        return ImageFont.truetype(str(path), size) if path else ImageFont.load_default(size)
    except (TypeError, OSError, ImportError):  # Pillow before 10.1, or built without FreeType
        return ImageFont.load_default()


@functools.lru_cache(maxsize=4096)
def written(text: str) -> str:
    """The text in characters that the font has, on one line; others as their escapes, said once."""
    known, result, lost = _characters(), [], []
    for character in unicodedata.normalize("NFC", " ".join(text.split())):
        plain = unicodedata.normalize("NFKC", character)  # such as full-width letters
        if ord(character) in known:
            result.append(character)
        elif all(ord(one) in known for one in plain):
            result.append(plain)
        elif unicodedata.category(character) not in _UNSEEN:
            lost.append(character)
            result.append(character.encode("ascii", "backslashreplace").decode())
    if lost and not _said:
        log.warning(
            "pictures: the font has no %s of '%s': characters that it lacks are written as their "
            "numbers, such as %s; only pictures are concerned.",
            ", ".join(sorted(set(lost))),
            text,
            lost[0].encode("ascii", "backslashreplace").decode(),
        )
    _said.update(lost)
    return "".join(result)


class Labels:
    """Labels at boxes of one picture; what would cover an earlier label stays away.

    Args:
        pen: of the picture.
        width: of the picture.
        height: of the picture.
    """

    def __init__(self, pen: Any, width: int, height: int) -> None:
        self.pen, self.width, self.height = pen, width, height
        self.taken: list[tuple[float, float, float, float]] = []

    def add(self, box: Sequence[float], text: str, color: Color) -> bool:
        """Write on top of the box, else just inside it; False where there is no room for either."""
        text, letters = written(text), font(12)
        left, top, right, bottom = self.pen.textbbox((0, 0), text, font=letters)
        wide, high = right - left + 6, bottom - top + 5
        x = min(max(box[0], 0), max(self.width - wide, 0))
        inside = min(max(box[1] + 2, 0), max(self.height - high, 0))
        for y in [box[1] - high, inside] if box[1] >= high else [inside]:
            place = (x, y, x + wide, y + high)
            if not any(_meet(place, other) for other in self.taken):
                break
        else:
            return False
        self.taken.append(place)
        self.pen.rectangle(place, fill=color)
        luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
        ink = (0, 0, 0) if luminance > 128 else (255, 255, 255)
        self.pen.text((x + 3 - left, y + 2 - top), text, fill=ink, font=letters)
        return True


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@functools.cache
def _path() -> Path | None:
    try:
        import matplotlib
    except ImportError:
        return None
    path = Path(matplotlib.get_data_path()) / "fonts/ttf" / _NAME
    return path if path.is_file() else None


@functools.cache
def _characters() -> Collection[int]:
    """Code points that the font draws."""
    path = _path()
    if path is None or not isinstance(font(12), ImageFont.FreeTypeFont):
        return range(32, 127)
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(path)).get_charmap())
