"""What an upload may be: told by its content, counted before it is decoded, gone afterwards."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.demo.conftest import ROOT  # noqa: F401 (puts demo/ on the path)

from uploads import FORMATS, Limits, Refused, check, received  # isort: skip


def encoded(kind, width=40, height=30, **options):
    buffer = io.BytesIO()
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    Image.fromarray(ramp).save(buffer, format=kind, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT"


def refusal(data, limits=None):
    with pytest.raises(Refused) as caught, received(data, limits or Limits()):
        pass
    sentence = caught.value.sentence
    assert sentence.endswith(".") and "/" not in sentence and "Error" not in sentence
    return caught.value.status, sentence


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_are_those_of_the_file_which_is_gone_afterwards(kind):
    data = encoded(kind)
    with received(data, Limits()) as upload:
        assert upload.path.read_bytes() == data and upload.pixels.shape == (30, 40, 3)
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        assert np.abs(upload.pixels - expected).max() <= (3 if kind == "JPEG" else 0)
        assert upload.path.parent.stat().st_mode & 0o077 == 0  # nobody else's to read
    assert not upload.path.exists() and not upload.path.parent.exists()


def test_a_photograph_stands_upright():
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    with received(encoded("JPEG", exif=exif), Limits()) as upload:
        assert upload.pixels.shape == (40, 30, 3)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "EPS", "PDF", "PPM", "ICO"])
def test_other_decoders_are_never_asked(kind):
    status, sentence = refusal(encoded(kind))
    assert status == 415 and "JPEG, PNG, WebP or BMP" in sentence


@pytest.mark.parametrize(
    "data", [b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 5000, b"\xff\xd8"]
)
def test_what_is_no_image(data):
    assert refusal(data)[0] == 415


def test_empty():
    assert refusal(b"") == (400, "The file is empty: choose an image.")


@pytest.mark.parametrize("kind", FORMATS)
def test_cut_short(kind):
    data = encoded(kind, 200, 200)
    status, sentence = refusal(data[: len(data) // 2])
    assert status == 422 and f"begins as a {kind}".lower() in sentence.lower()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_rubbish_behind_a_signature(kind):
    status, sentence = refusal(encoded(kind)[:12] + b"rubbish" * 100)
    assert status == 422 and f"begins as a {kind}".lower() in sentence.lower()


def test_bytes_have_a_limit():
    status, sentence = refusal(encoded("BMP", 100, 100), Limits(megabytes=0.02))
    assert status == 413 and "0.0 MB" in sentence and "0.02 MB are taken" in sentence


@pytest.mark.parametrize("side", [6000, 20000, 100000])
def test_pixels_have_a_limit_that_holds_before_any_is_decoded(side):
    """36 million, and numbers that Pillow itself warns of and refuses."""
    status, sentence = refusal(png_header(side, side))
    assert status == 413 and "25 megapixels are taken" in sentence
    with pytest.raises(Refused, match="25 megapixels"):
        check(png_header(side, side), Limits())


def test_a_line_is_no_picture():
    status, sentence = refusal(encoded("PNG", 43, 2))
    assert status == 422 and "43 x 2" in sentence
    assert check(encoded("PNG", 40, 2), Limits()) == "PNG"


def test_one_pixel_is_enough():
    with received(encoded("PNG", 1, 1), Limits()) as upload:
        assert upload.pixels.shape == (1, 1, 3)
