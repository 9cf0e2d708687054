"""What may come in: an image of a common format and of a bearable size, told by its content.

Nothing here trusts a name or a header of the request. Only four decoders are ever asked, and the
number of pixels is read and limited before any pixel is decoded.
"""

import io
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from d2_unsupdet.data.images import BadImage, read_image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
BEGINNINGS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
# Detectors resize by the short side, some without a bound on the long one: what a strip of a few
# pixels would grow to is not seen in its number of pixels.
MOST_ASPECT = 20


class Refused(Exception):
    """An answer other than "here it is": the HTTP status and a sentence for a person."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Limits:
    """What one upload may cost.

    Args:
        megabytes: of the file.
        megapixels: of the decoded image: 25 need 75 MB, and three times that while they are read.
    """

    megabytes: float = 10
    megapixels: float = 25

    @property
    def bytes(self) -> int:
        return int(self.megabytes * 1e6)


@dataclass(frozen=True)
class Upload:
    """A readable image: its file, which is gone when the request ends, and its upright RGB."""

    path: Path
    pixels: np.ndarray


@contextmanager
def received(data: bytes, limits: Limits) -> Iterator[Upload]:
    """The image in these bytes, in a private file for as long as the block lasts, or `Refused`.

    The mappers read files, and what a person sees has to be what evaluation sees.
    """
    kind = check(data, limits)
    with tempfile.TemporaryDirectory(prefix="d2_unsupdet_demo_") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        try:
            pixels = read_image(path)
        except BadImage:  # its reason may hold words of decoders, which are not for the page
            raise damaged(kind) from None
        yield Upload(path, pixels)


def check(data: bytes, limits: Limits) -> str:
    """The format, after everything that can be told without decoding pixels."""
    if not data:
        raise Refused(400, "The file is empty: choose an image.")
    if len(data) > limits.bytes:
        raise too_large(len(data), limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit on pixels is the stricter one
            with Image.open(io.BytesIO(data), formats=FORMATS) as header:
                kind, (width, height) = str(header.format), header.size
    except Image.DecompressionBombError:
        raise Refused(413, _too_many("far too many", limits)) from None
    except Exception:  # decoders raise nearly anything on hostile bytes
        begun = begins_as(data)
        if begun:
            raise damaged(begun) from None
        raise Refused(
            415, "This is no image that is read here: choose a JPEG, PNG, WebP or BMP file."
        ) from None
    if width * height > limits.megapixels * 1e6:
        raise Refused(413, _too_many(f"{width} x {height}", limits))
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise Refused(
            422, f"The image has {width} x {height} pixels, a line rather than a picture: crop it."
        )
    return kind


def begins_as(data: bytes) -> str | None:
    """The format by the first bytes alone, of what no decoder opens."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return next((kind for mark, kind in BEGINNINGS.items() if data.startswith(mark)), None)


def damaged(kind: str) -> Refused:
    """The file was an image once."""
    return Refused(422, f"The file begins as a {kind} image but cannot be decoded: it is damaged.")


def too_large(size: int, limits: Limits) -> Refused:
    """The file has too many bytes."""
    return Refused(
        413,
        f"The file has {size / 1e6:.1f} MB and {limits.megabytes:g} MB are taken: save it smaller.",
    )


def _too_many(pixels: str, limits: Limits) -> str:
    return (
        f"The image has {pixels} pixels and {limits.megapixels:g} megapixels are taken: "
        "save it smaller."
    )
