"""Every kind of file: read right, or refused with a reason. All files are made here."""

import io
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from d2_unsupdet.data.images import (
    BadImage,
    ImageFile,
    image_size,
    read_image,
    read_label_map,
    shrink_for,
)
from d2_unsupdet.errors import UserError


def scene(width: int = 90, height: int = 60) -> np.ndarray:
    """Smooth colours without any symmetry, kind to JPEG."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    red, green, blue = 255 * x / width, 255 * y / height, 127 + 120 * np.sin((x + 2 * y) / 25)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


def error(path: Path) -> str:
    """The reason given, by the reader."""
    with pytest.raises(BadImage) as caught:
        read_image(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    return caught.value.reason


def assert_close(a: np.ndarray, b: np.ndarray, tolerance: float = 3) -> None:
    assert a.shape == b.shape and a.dtype == np.uint8
    assert np.abs(a.astype(float) - b).mean() <= tolerance


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp", "gif", "ppm"])
def test_common_formats(tmp_path, suffix):
    path = save(tmp_path / f"x.{suffix}", scene())
    assert_close(read_image(path), scene(), 12 if suffix == "gif" else 3)
    assert image_size(path) == (90, 60)


@pytest.mark.parametrize("name, kind", [("x.png", "JPEG"), ("x.jpg", "PNG"), ("x.txt", "WEBP")])
def test_the_content_decides_the_format(tmp_path, name, kind):
    assert_close(read_image(save(tmp_path / name, scene(), format=kind)), scene())


def test_bgr(tmp_path):
    path = save(tmp_path / "x.png", scene())
    assert (read_image(path, format="BGR") == scene()[..., ::-1]).all()
    with pytest.raises(UserError, match="'HSV'"):
        read_image(path, format="HSV")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, kind, orientation):
    stored = {  # how a camera held that way would have stored the upright scene
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](scene())
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / "x", np.ascontiguousarray(stored), format=kind, exif=exif)
    assert_close(read_image(path), scene())
    assert image_size(path) == (90, 60)
    assert (ImageFile(path).width, ImageFile(path).height) == (90, 60)


def test_cmyk(tmp_path):
    path = save(tmp_path / "x.jpg", Image.fromarray(scene()).convert("CMYK"))
    assert_close(read_image(path), scene())


def test_inverted_cmyk_of_adobe(tmp_path):
    """Adobe stores ink inverted and says so in a marker; Pillow writes that marker too."""
    ink = Image.fromarray(scene()).convert("CMYK")
    stream = io.BytesIO()
    ink.save(stream, "JPEG", quality=95)
    assert b"Adobe" in stream.getvalue()
    (tmp_path / "x.tif").write_bytes(stream.getvalue())
    assert_close(read_image(tmp_path / "x.tif"), scene())


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits(tmp_path, suffix):
    colour, grey = tmp_path / f"c.{suffix}", tmp_path / f"g.{suffix}"
    deep = scene().astype(np.uint16) * 257
    cv2.imwrite(str(colour), deep[..., ::-1])
    cv2.imwrite(str(grey), deep[..., 0])
    assert_close(read_image(colour), scene(), 0)
    assert_close(read_image(grey), np.repeat(scene()[..., :1], 3, axis=2), 0)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_other_modes(tmp_path, mode):
    image = Image.fromarray(scene()).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    assert_close(read_image(save(tmp_path / "x.png", image)), expected, 0)


def test_grey_jpeg(tmp_path):
    image = Image.fromarray(scene()).convert("L")
    assert_close(read_image(save(tmp_path / "x.jpg", image)), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped(tmp_path):
    rgba = np.dstack([scene(), np.full((60, 90), 7, np.uint8)])
    assert (read_image(save(tmp_path / "x.png", rgba)) == scene()).all()


def test_transparent_palette(tmp_path):
    image = Image.fromarray(scene()).quantize(16)
    path = save(tmp_path / "x.png", image, transparency=bytes(range(0, 160, 10)))
    assert_close(read_image(path), np.asarray(image.convert("RGB")), 0)


def test_pixels_without_a_range_are_refused(tmp_path):
    wide = Image.fromarray(np.full((4, 4), 70_000, np.int32))
    assert "32-bit" in error(save(tmp_path / "i.tif", wide))
    assert "floating-point" in error(
        save(tmp_path / "f.tif", Image.fromarray(np.ones((4, 4), "f")))
    )


@pytest.mark.parametrize("shape", [(1, 1), (10, 20000), (20000, 10)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_extreme_shapes(tmp_path, shape, suffix):
    path = save(tmp_path / f"x.{suffix}", np.full((*shape, 3), 90, np.uint8))
    assert_close(read_image(path), np.full((*shape, 3), 90))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("share", [0.03, 0.5, 0.9, 0.995])
def test_truncated_jpeg(tmp_path, share, options):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / "x.jpg", noise, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert error(path)


def test_truncated_jpeg_with_a_thumbnail(tmp_path):
    """The thumbnail's end marker must not pass for the image's."""
    stream = io.BytesIO()
    Image.fromarray(scene()).resize((16, 16)).save(stream, "JPEG")
    exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0\0\0\0\0" + stream.getvalue()
    path = save(tmp_path / "x.jpg", scene(), exif=exif)
    whole = path.read_bytes()
    assert whole.count(b"\xff\xd9") == 2
    assert_close(read_image(path), scene())
    path.write_bytes(whole[:-100])
    assert "truncated" in error(path)


def test_jpeg_whose_tail_was_never_written(tmp_path):
    """A crash of the file system leaves zeros where data should be."""
    path = save(tmp_path / "x.jpg", scene())
    data = path.read_bytes()
    path.write_bytes(data[:-300] + bytes(300))
    assert "truncated" in error(path)


def test_jpeg_with_data_behind_its_end_is_whole(tmp_path):
    path = save(tmp_path / "x.jpg", scene())
    path.write_bytes(path.read_bytes() + b"a phone's video" * 10)
    assert_close(read_image(path), scene())


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_truncated_files(tmp_path, suffix, share):
    path = save(tmp_path / f"x.{suffix}", scene())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert error(path)


def test_files_that_are_no_images(tmp_path):
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.write_bytes(b"")
    text.write_text("not an image at all")
    assert "0 bytes" in error(empty)
    assert "no image" in error(text)
    assert "no such file" in error(tmp_path / "absent.jpg")
    assert "cannot be read" in error(tmp_path)
    for path in (empty, text, tmp_path / "absent.jpg"):
        with pytest.raises(BadImage):
            image_size(path)


def test_decompression_bomb(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", np.zeros((300, 300), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    assert "too many pixels" in error(path)


def test_the_error_crosses_processes():
    caught = pickle.loads(pickle.dumps(BadImage(Path("a.jpg"), "the file is empty")))
    assert (caught.path, caught.reason) == ("a.jpg", "the file is empty")


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decoding_keeps_the_geometry(tmp_path, shrink, orientation):
    """Red grows by one a pixel of x, green of y, so each pixel says where its centre lies."""
    y, x = np.mgrid[:173, :219]
    ramp = np.stack([x, y, np.full_like(x, 128)], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / "x.jpg", ramp, quality=100, subsampling=0, exif=exif)
    full, small = read_image(path).astype(float), ImageFile(path).decode(shrink=shrink)
    assert small.shrink == shrink and small.pixels.flags["C_CONTIGUOUS"]
    (ox, oy), inner = small.origin, slice(1, 20)
    patch = full[oy + shrink : oy + 20 * shrink, ox + shrink : ox + 20 * shrink]
    blocks = patch.reshape(19, shrink, 19, shrink, 3).mean(axis=(1, 3))
    errors = small.pixels[inner, inner] - blocks
    assert np.abs(errors).max() <= 3  # colour conversion and rounding
    assert np.abs(errors.mean(axis=(0, 1))).max() < 0.25  # a shift by one pixel would be 1


def test_shrink_keeps_the_needed_pixels(tmp_path):
    assert [shrink_for(n, 100) for n in (50, 199, 200, 399, 400, 801, 9000)] == [
        1, 1, 2, 2, 4, 8, 8,
    ]  # fmt: skip
    path = save(tmp_path / "x.jpg", scene(403, 300))
    assert read_image(path, target_short_side=150).shape == (150, 202, 3)
    assert read_image(path, target_short_side=151).shape == (300, 403, 3)
    assert_close(read_image(path, target_short_side=70), scene(403, 300)[2::4, 2::4])
    png = save(tmp_path / "x.png", scene(403, 300))
    assert read_image(png, target_short_side=20).shape == (300, 403, 3)


def test_label_maps_keep_their_numbers(tmp_path):
    labels = np.random.default_rng(0).integers(0, 200, (20, 30), dtype=np.uint8)
    palette = Image.fromarray(labels).convert("P")
    palette.putpalette(list(range(255, -1, -1)) * 3)
    palette.putdata(labels.ravel().tolist())
    deep = Image.fromarray(labels.astype(np.uint16) * 100)
    assert (read_label_map(save(tmp_path / "l.png", labels)) == labels).all()
    assert (read_label_map(save(tmp_path / "p.png", palette)) == labels).all()
    assert (read_label_map(save(tmp_path / "d.png", deep)) == labels.astype(int) * 100).all()
    with pytest.raises(UserError, match="one channel"):
        read_label_map(save(tmp_path / "c.png", scene()))
