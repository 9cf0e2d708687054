"""Nearest means what a plain loop over all images says; what cannot be read is left out."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from d2_unsupdet.analysis.alike import Gallery, small_jpeg
from d2_unsupdet.checkpoint.backbone import Architecture, FrozenResNet, Stage
from d2_unsupdet.data.images import read_image
from d2_unsupdet.errors import UserError

NET = FrozenResNet(Architecture(8, (Stage(1, 8), Stage(1, 16))))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(1)
    for number in range(7):
        pixels = rng.integers(0, 255, (4, 5, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((50, 40)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def gallery_of(paths, **options):
    gallery = Gallery(NET, side=32)
    gallery.add(paths, **options)
    return gallery


def test_nearest_is_the_highest_cosine_around_the_mean(paths):
    gallery = gallery_of(paths)
    rows = torch.cat([gallery.features([read_image(path)]) for path in paths])
    mean = rows.mean(0)
    for index, path in enumerate(paths):
        expected = [cosine_similarity(rows[index] - mean, row - mean, dim=0) for row in rows]
        found = gallery.nearest(read_image(path), count=4)
        assert found[0].index == index and found[0].similarity == pytest.approx(1, abs=1e-5)
        order = np.argsort([-value for value in expected])[:4].tolist()
        assert [one.index for one in found] == order
        values = [expected[one].item() for one in order]
        assert [one.similarity for one in found] == pytest.approx(values, abs=1e-5)
        assert [o.index for o in gallery.nearest(read_image(path), count=3, without=index)] == (
            order[1:]
        )


def test_batches_and_parts_make_no_difference(paths):
    whole, parts = gallery_of(paths), gallery_of(paths[:3], batch=2)
    parts.add(paths[3:], batch=3)
    assert whole.paths == parts.paths and whole.thumbnails == parts.thumbnails
    asked = read_image(paths[4])
    for one, other in zip(whole.nearest(asked), parts.nearest(asked), strict=True):
        assert one.index == other.index and one.similarity == pytest.approx(
            other.similarity, abs=1e-4
        )


def test_unreadable_images_are_left_out_and_told(paths, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 cut")
    gallery = Gallery(NET, side=32)
    bad = gallery.add([paths[0], broken, paths[1]])
    assert len(gallery) == 2 and len(bad) == 1 and "broken.jpg" in bad[0]
    with pytest.raises(UserError, match="None of the 1 images can be read"):
        Gallery(NET, side=32).add([broken])


def test_a_gallery_of_one_answers_that_one(paths):
    found = gallery_of(paths[:1]).nearest(read_image(paths[1]))
    assert [one.index for one in found] == [0]
    assert gallery_of(paths[:1]).nearest(read_image(paths[0]), without=0) == []


def test_thumbnails_are_small_and_bare():
    data = small_jpeg(np.zeros((300, 600, 3), np.uint8), 100)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (100, 50) and not image.getexif()
