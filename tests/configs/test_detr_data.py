"""The DETR family's augmentation: sizes, crops, boxes that follow pixels, empty images."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T

from d2_unsupdet.data import get_dataset
from d2_unsupdet.seeding import seeded
from tests.data.miniature import box, write_image

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 300, 400
SHORT = set(range(480, 801, 32))


@pytest.fixture(scope="module")
def build():
    return LazyConfig.load(str(ROOT / "configs/common/data/detr.py"), ("detr",))[0]


@pytest.fixture(scope="module")
def augmentations(build):
    cfg = build("toy_train", "toy_val", batch=16)
    return instantiate(cfg.train.mapper)


def draw(mapper, seed):
    """The transforms of one draw, and the image under them."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[100:200, 150:250] = 255
    given = T.AugInput(image)
    with seeded("augmentation", seed):
        transforms = mapper.augmentations(given)
    return transforms, given.image


def test_half_are_mirrored_half_are_cropped_all_end_at_one_of_eleven_sizes(augmentations):
    counts: Counter[str] = Counter()
    short_edges = set()
    for seed in range(200):
        transforms, image = draw(augmentations, seed)
        names = [type(t).__name__ for t in transforms.transforms]
        crops = [t for t in transforms.transforms if isinstance(t, T.CropTransform)]
        counts["mirrored"] += "HFlipTransform" in names
        counts["cropped"] += len(crops)
        for crop in crops:
            # 400, 500 or 600 pixels high, four thirds as wide
            assert 384 <= crop.h <= 600 and 384 <= crop.w <= 600
        short, long = sorted(image.shape[:2])
        assert long <= 1333
        if not crops:
            assert short in SHORT and abs(long - short * WIDTH / HEIGHT) <= 1
        short_edges.add(short)
    assert 75 < counts["mirrored"] < 125 and 75 < counts["cropped"] < 125
    assert short_edges >= SHORT


def test_a_box_stays_around_its_pixels(augmentations):
    seen = 0
    for seed in range(40):
        transforms, image = draw(augmentations, seed)
        (found,) = transforms.apply_box(np.array([[150.0, 100, 250, 200]]))
        height, width = image.shape[:2]
        found = found.clip(0, [width, height, width, height])
        rows, columns = np.nonzero(image[..., 0] > 127)
        if len(rows) < 400:
            continue
        seen += 1
        pixels = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert np.allclose(found, pixels, atol=2)
    assert seen > 25


def test_a_draw_follows_from_the_seed(augmentations):
    assert np.array_equal(draw(augmentations, 3)[1], draw(augmentations, 3)[1])


@pytest.mark.parametrize("shape", [(20, 300), (300, 20), (8, 8)])
def test_small_and_long_images_pass(augmentations, shape):
    for seed in range(10):
        given = T.AugInput(np.zeros((*shape, 3), np.uint8))
        with seeded("small", seed):
            augmentations.augmentations(given)
        assert min(given.image.shape[:2]) >= 1 and max(given.image.shape[:2]) <= 1333


def test_images_without_objects_are_kept_and_a_crop_may_lose_all(build, tmp_path):
    for name in ("full.jpg", "empty.jpg"):
        write_image(tmp_path / name, 900, 900)
    content = {
        "images": [{"id": 1, "file_name": "full.jpg"}, {"id": 2, "file_name": "empty.jpg"}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [box(1, 1, 1, [0, 0, 20, 20])],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    name = f"coco:{tmp_path}/labels.json@{tmp_path}"
    cfg = build(name, name, batch=2)
    records = instantiate(cfg.train.dataset)
    assert [len(r["annotations"]) for r in records] == [1, 0]
    assert len(get_dataset(name, keep_empty=False)) == 1
    mapper = instantiate(cfg.train.mapper)
    counts = set()
    for seed in range(12):
        with seeded("crop", seed):
            counts.add(len(mapper(records[0])["instances"]))
    assert counts == {0, 1}
    assert len(mapper(records[1])["instances"]) == 0
