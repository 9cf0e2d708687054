"""Miniature copies of the data sets, made on the fly in their real formats."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.miniature import VOC_OBJECT, VOC_XML, write_image
from tests.scripts import load_script


@pytest.fixture
def script():
    """Load a preparation script by name, without running it."""

    def load(name: str):
        return load_script(f"datasets/{name}.py")

    return load


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty data root, found through the environment."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


@pytest.fixture
def voc(root) -> Path:
    """VOC2007 with two images; the second has a difficult object and no size."""
    folder = root / "VOC2007"
    objects = VOC_OBJECT.format(name="dog", difficult=0, x0=1, y0=1, x1=20, y1=10)
    hard = VOC_OBJECT.format(name="person", difficult=1, x0=3, y0=4, x1=8.0, y1=9)
    texts = {
        "000005": VOC_XML.format(w=20, h=10, objects=objects + hard),
        "000007": f"<annotation>{hard}</annotation>",
    }
    (folder / "Annotations").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "Annotations" / f"{name}.xml").write_text(text)
        write_image(folder / "JPEGImages" / f"{name}.jpg")
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("000005\n000007\n")
    (lists / "dog_train.txt").write_text("000005  1\n000007 -1\n")
    return folder


@pytest.fixture
def cityscapes(root) -> Path:
    """One image with a car, a person with a hole, a group of riders, and road."""
    folder = root / "cityscapes"
    stem = "aachen_000000_000019"
    write_image(folder / f"leftImg8bit/val/aachen/{stem}_leftImg8bit.png", 16, 12)
    ids = np.full((12, 16), 7, np.uint16)
    ids[2:6, 1:5] = 26001
    ids[6:11, 8:13] = 24000
    ids[8, 10] = 7
    ids[0, 14:] = 25
    labels = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
    labels[11, 0] = 4  # a label that is not trained on
    gt = folder / "gtFine/val/aachen"
    gt.mkdir(parents=True)
    cv2.imwrite(str(gt / f"{stem}_gtFine_instanceIds.png"), ids)
    cv2.imwrite(str(gt / f"{stem}_gtFine_labelIds.png"), labels)
    return folder
