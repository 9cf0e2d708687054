"""What a probe looks at: classes of images, of boxes and of cut-out objects, difficult ones too."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from d2_unsupdet.data.sources import register_coco_json, register_imagenet, register_voc
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.probes import extract, read_probe_set
from d2_unsupdet.evaluation.probes.data import ProbeImages


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def boxes(tmp_path):
    """A 40x20 image that is black but for a red and a green square, and an empty one."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[5:15, 2:12, 0] = 255
    pixels[0:8, 30:38, 1] = 255
    save(tmp_path / "images/a.png", pixels)
    save(tmp_path / "images/b.png", np.zeros((20, 40, 3), np.uint8))
    size = {"width": 40, "height": 20}
    content = {
        "images": [
            {"id": i, "file_name": f"{name}.png", **size} for i, name in ((1, "a"), (2, "b"))
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 5, 10, 10], "area": 100},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [30, 0, 8, 8], "area": 64},
            {"id": 3, "image_id": 2, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            {"id": 4, "image_id": 2, "category_id": 3, "bbox": [5, 5, 0, 9], "area": 0},
        ],
        "categories": [{"id": i, "name": n} for i, n in ((1, "red"), (2, "green"), (3, "blue"))],
    }
    for annotation in content["annotations"]:
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", 81)
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    register_coco_json("probe_boxes", tmp_path / "boxes.json", tmp_path / "images")
    return "probe_boxes"


def test_the_classes_of_the_boxes_without_crowds_and_empty_ones(boxes):
    found = read_probe_set(boxes)
    assert (found.kind, found.classes, found.single) == ("multi", ["red", "green", "blue"], False)
    assert found.targets.tolist() == [[1, 1, 0], [0, 0, 0]]


def test_objects_are_cut_out_with_their_surroundings(boxes):
    found = read_probe_set(boxes, labels="objects")
    assert found.labels.tolist() == [0, 1]
    assert found.regions == [(1, 4, 13, 16), (29, 0, 39, 9)]  # 1.2 sides; cut at the border
    _, red, _ = ProbeImages(found, 24)[0]
    assert red[0].float().mean() == pytest.approx(255 * (10 / 12) ** 2, rel=0.05)
    assert not red[1:].any()


def test_difficult_objects_are_neither_there_nor_absent(tmp_path):
    def thing(name, difficult):
        box = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
        return (
            f"<object><name>{name}</name><difficult>{difficult}</difficult>"
            f"<bndbox>{box}</bndbox></object>"
        )

    save(tmp_path / "JPEGImages/x.jpg", np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "Annotations").mkdir()
    objects = thing("cat", 1) + thing("cat", 0) + thing("dog", 1) + thing("cat", 1)
    size = "<size><width>20</width><height>20</height></size>"
    xml = f"<annotation>{size}{objects}</annotation>"
    (tmp_path / "Annotations/x.xml").write_text(xml)
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("x\n")
    register_voc("probe_voc", tmp_path, "test", 2007, ("cat", "cow", "dog"))
    assert read_probe_set("probe_voc").targets.tolist() == [[1, 0, -1]]
    assert read_probe_set("probe_voc", labels="objects").labels.tolist() == [0]


def test_images_with_a_class_and_their_middle(tmp_path):
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[4:60, 36:92] = 255  # 56 of 64 is 224 of 256
    for name in ("n01/a", "n02/b", "n02/c"):
        save(tmp_path / f"train/{name}.png", pixels)
    register_imagenet("probe_imagenet", tmp_path)
    found = read_probe_set("probe_imagenet")
    assert (found.kind, found.labels.tolist()) == ("image", [0, 1, 1])
    assert ProbeImages(found, 56)[0][1].eq(255).all()
    assert len(read_probe_set("probe_imagenet", images=2)) == 2
    first, again, later = (ProbeImages(found, 56, epoch=e)[1][1] for e in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, later)


def test_shifted_crops_have_one_scale_and_lie_in_the_middle_square(tmp_path):
    """Of 64 x 128 pixels the square is columns 32 to 95, of which 56 x 56 are seen."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 32:96, 0] = np.arange(64)[:, None]
    pixels[:, 32:96, 1] = np.arange(64)
    pixels[:, 32:96, 2] = 255
    save(tmp_path / "train/n01/a.png", pixels)
    register_imagenet("probe_shifted", tmp_path)
    found, corners = read_probe_set("probe_shifted"), set()
    for epoch in range(60):
        view = ProbeImages(found, 56, epoch=epoch, shifted=True)[0][1]
        rows, columns = view[0].int(), view[1].int()
        assert (view[2] == 255).all() and int(rows[-1, 0] - rows[0, 0]) == 55
        step = int(columns[0, 1] - columns[0, 0])
        assert abs(step) == 1 and abs(int(columns[0, -1] - columns[0, 0])) == 55
        corners.add((int(rows.min()), int(columns.min()), step))
    tops, lefts, mirrored = (set(values) for values in zip(*corners, strict=True))
    assert tops == lefts == set(range(9)) and mirrored == {-1, 1}


def test_what_cannot_be_probed_is_a_sentence(boxes, tmp_path):
    with pytest.raises(UserError, match="needs a class for each image"):
        read_probe_set(boxes, labels="image")
    with pytest.raises(UserError, match="not one of auto"):
        read_probe_set(boxes, labels="all")
    with pytest.raises(UserError, match="needs the same ones"):
        read_probe_set(boxes, classes=["red", "green"])
    save(tmp_path / "plain/a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="needs boxes"):
        read_probe_set(f"folder:{tmp_path / 'plain'}")


class Means(nn.Module):
    """The mean colour as a feature."""

    def forward(self, images):
        return {"res5": images.float()}


def test_an_unreadable_image_is_left_out_with_its_target(tmp_path, caplog):
    for number, name in enumerate(("n01/a", "n02/b", "n03/c")):
        save(tmp_path / f"train/{name}.png", np.full((16, 16, 3), 80 * number, np.uint8))
    register_imagenet("probe_broken", tmp_path)
    found = read_probe_set("probe_broken")
    (tmp_path / "train/n02/b.png").write_bytes(b"no image")
    features, left = extract(Means(), found, size=16, batch=2)
    assert left.labels.tolist() == [0, 2]
    assert features["conv5"].tolist() == [[0, 0, 0], [160, 160, 160]]
    assert "1 unreadable" in caplog.text
    with pytest.raises(UserError, match="has no conv4"):
        extract(Means(), found, size=16, stages=["conv4"])
