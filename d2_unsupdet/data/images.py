"""Reading image files: any common format becomes upright 8-bit RGB, or `BadImage` says why not.

JPEG is decoded by OpenCV (fast, and at 1/2, 1/4, 1/8 of its size for less), all else by Pillow,
which is strict about truncated files. The content decides the format, never the file's name.
"""

import io
import os
import struct
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image, ImageOps

from d2_unsupdet.errors import UserError

SHRINKS = (8, 4, 2)  # what a JPEG decoder offers besides full size
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,  # the reduction alone; the colour flag joins it
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_RGB: int | None = getattr(cv2, "IMREAD_COLOR_RGB", None)  # OpenCV 4.11 and later
_START, _END = b"\xff\xd8", b"\xff\xd9"  # of a JPEG file
_ORIENTATION = 274  # EXIF tag; values 5 to 8 swap width and height


class BadImage(Exception):
    """An image file that cannot be used. The data set replaces it, counts it and names it."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(path, reason)  # both kept as args: the error crosses processes
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class NoBoxes(BadImage):
    """A readable image that this draw leaves without usable boxes; another draw may keep some."""


@dataclass(frozen=True)
class Decoded:
    """Upright pixels; the left edge of pixel i lies at `origin + shrink * i` of the full image.

    Args:
        pixels: uint8 RGB, (height, width, 3).
        shrink: 1, or the whole factor by which the decoder reduced both sides.
        origin: (x, y) of the first pixel's corner: 0, or negative where a mirrored image begins
            with the partly filled last block of its file.
    """

    pixels: np.ndarray
    shrink: int = 1
    origin: tuple[int, int] = (0, 0)


class ImageFile:
    """An image whose header is read: its upright size is known before its pixels are paid for.

    >>> image = ImageFile("street.jpg")
    >>> image.width, image.height
    >>> image.decode(shrink=2).pixels

    Args:
        path: the file, or anything else that Detectron2's PathManager opens.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = os.fspath(path)
        self._data = _read_bytes(self.path)
        header = _plain_jpeg_header(self._data) or _header(self.path, self._data)
        self.width, self.height, self.orientation = header[:3]
        self._fast = header.fast
        if self._data.startswith(_START) and self._data.rfind(_END) < header.end:
            # Decoders fill the missing part with grey and at most warn. (Searching only behind the
            # header: an embedded thumbnail has an end marker too.)
            raise BadImage(self.path, "the JPEG is truncated (it has no end marker)")

    def decode(self, *, shrink: int = 1) -> Decoded:
        """RGB pixels; `shrink` is taken up where the format can, else ignored."""
        if self._fast:
            pixels = _decode_jpeg(self._data, shrink)
            if pixels is not None:
                return self._upright(pixels, shrink)
        with _reported(self.path):
            return Decoded(_decode_with_pillow(self._data))

    def _upright(self, pixels: np.ndarray, shrink: int) -> Decoded:
        transposed, mirrored, flipped = _ORIENTATIONS.get(self.orientation, (False,) * 3)
        if transposed:
            pixels = cv2.transpose(pixels)
        if mirrored or flipped:
            pixels = cv2.flip(pixels, -1 if mirrored and flipped else int(mirrored))
        height, width = pixels.shape[:2]
        origin = (
            self.width - shrink * width if mirrored else 0,
            self.height - shrink * height if flipped else 0,
        )
        return Decoded(pixels, shrink, origin)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(width, height) of the upright image, from its header alone."""
    with _reported(path), _open(path) as file, Image.open(file) as header:
        return _upright_size(header)


def read_image(
    path: str | os.PathLike, *, format: str = "RGB", target_short_side: int | None = None
) -> np.ndarray:
    """The upright image as a uint8 array (height, width, 3).

    Args:
        path: the file.
        format: "RGB" or "BGR".
        target_short_side: the short side that is needed. Where the decoder can, the image comes
            smaller by the largest whole factor that keeps this many pixels.
    """
    if format not in ("RGB", "BGR"):
        raise UserError(f"image format '{format}' is not known, use 'RGB' or 'BGR'.")
    image = ImageFile(path)
    shrink = 1
    if target_short_side is not None:
        shrink = shrink_for(min(image.width, image.height), target_short_side)
    pixels = image.decode(shrink=shrink).pixels
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if format == "BGR" else pixels


def shrink_for(have: float, need: float) -> int:
    """The strongest decoder reduction that leaves `need` of `have` pixels."""
    return next((s for s in SHRINKS if have >= s * need), 1)


def read_label_map(path: str | os.PathLike) -> np.ndarray:
    """A label image as it is stored, (height, width): palette indices stay indices.

    uint8 where the file is, else int32.
    """
    with _reported(path), Image.open(io.BytesIO(_read_bytes(path))) as image:
        labels, mode = np.array(image), image.mode
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        raise UserError(f"label map {path} holds {mode} pixels; it needs one channel of class ids.")
    return labels if labels.dtype == np.uint8 else labels.astype(np.int32)


class _reported:  # noqa: N801 (reads as a statement)
    """Whatever a decoder raises on a damaged file becomes `BadImage`."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        # Decoders raise SyntaxError, struct.error, KeyError ... besides OSError on bad bytes.
        if not isinstance(error, Exception) or isinstance(error, (MemoryError, BadImage)):
            return
        raise BadImage(self.path, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "the content is no image in a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels to be decoded safely ({error})"
    if isinstance(error, OSError) and error.strerror:
        return f"the file cannot be read ({error.strerror})"
    return f"the image cannot be decoded ({error})"


def _open(path: str | os.PathLike) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return PathManager.open(os.fspath(path), "rb")  # s3://, detectron2:// and the like


def _read_bytes(path: str | os.PathLike) -> bytes:
    with _reported(path), _open(path) as file:
        data = file.read()
    if not data:
        raise BadImage(path, "the file is empty (0 bytes)")
    return data


class _Header(NamedTuple):
    """What is known before decoding; `end` is where the header's bytes end."""

    width: int  # upright
    height: int
    orientation: int
    fast: bool  # whether OpenCV decodes it right
    end: int


def _plain_jpeg_header(data: bytes) -> _Header | None:
    """Header of an ordinary JPEG without EXIF, many times faster than Pillow; None for all else."""
    at, size = 2, None
    while data.startswith(_START) and at + 10 < len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, at + 1)
        if marker in (0xC0, 0xC1, 0xC2):  # frame: baseline, extended or progressive
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            usual = bits == 8 and channels in (1, 3) and 0 < width * height < 2**26
            size = (width, height) if usual else None
        elif marker == 0xDA:  # scan: the pixels follow
            return _Header(*size, 1, True, at) if size else None
        elif marker == 0xE1:  # EXIF or XMP, which may turn the image
            return None
        at += 2 + length
    return None


def _header(path: str, data: bytes) -> _Header:
    stream = io.BytesIO(data)
    with _reported(path), Image.open(stream) as image:
        return _Header(
            *_upright_size(image),
            orientation=image.getexif().get(_ORIENTATION, 1),
            fast=data.startswith(_START) and image.mode in ("L", "RGB"),
            end=stream.tell(),
        )


def _upright_size(header: Image.Image) -> tuple[int, int]:
    width, height = header.size
    # Pillow turns the size of a TIFF itself.
    turned = header.format != "TIFF" and header.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


# EXIF orientation -> (transpose, then mirror left-right, then flip top-bottom)
_ORIENTATIONS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def _decode_jpeg(data: bytes, shrink: int) -> np.ndarray | None:
    flags = _REDUCED[shrink] | (_RGB or cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or _RGB:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _decode_with_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save them with 8 bits")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB would warn about transparent palettes
    # As in Detectron2, the alpha channel is dropped.
    return np.array(image.convert("RGB"))


def _from_16_bit(grey: np.ndarray) -> np.ndarray:
    values = grey.astype(np.int64)  # Pillow itself would clip at 255
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels have no known range; save them with 8 or 16 bits")
    return np.repeat(((values + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
