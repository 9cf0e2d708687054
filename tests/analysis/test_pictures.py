"""The pictures show the boxes where they are."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from PIL import Image

from d2_unsupdet.analysis.pictures import (
    BACKGROUND,
    PALETTE,
    class_colors,
    contact_sheet,
    draw_instances,
    draw_predictions,
    draw_segmentation,
    draw_views,
    drop_pictures,
    save_picture,
)
from d2_unsupdet.analysis.runs import read_run

BAR = 24  # height of the title above each panel


def near(pixel, color):
    return np.abs(pixel.astype(int) - np.array(color)).max() < 12


def sample(valid=True):
    return {
        "views": torch.full((2, 3, 224, 224), 90, dtype=torch.uint8),
        "overlap": torch.tensor([[20.0, 40, 200, 180], [10.0, 60, 150, 220]]),
        "flipped": torch.tensor([False, True]),
        "valid": valid,
    }


def test_overlap_boxes_are_drawn_in_each_view():
    picture = draw_views(sample())
    assert picture.shape == (224 + BAR, 2 * 224 + 8, 3)
    first, second = picture[BAR:, :224], picture[BAR:, 232:]
    assert near(first[110, 20], PALETTE[0]) and near(first[180, 110], PALETTE[0])
    assert near(second[140, 10], PALETTE[0]) and near(second[220, 80], PALETTE[0])
    assert near(first[110, 110], (90, 90, 90))


def test_the_marked_corner_moves_with_the_flip():
    picture = draw_views(sample())
    first, second = picture[BAR:, :224], picture[BAR:, 232:]
    assert near(first[43, 22], PALETTE[0])  # inside the dot at the top left
    assert near(second[63, 148], PALETTE[0])  # flipped: at the top right
    assert not near(second[63, 14], PALETTE[0])


def test_a_pair_without_overlap_has_no_box():
    assert (
        not (np.abs(draw_views(sample(valid=False))[BAR:].astype(int) - PALETTE[0]) < 12)
        .all(axis=2)
        .any()
    )


def make_instances(prefix, boxes, classes, **more):
    instances = Instances((100, 100))
    instances.set(f"{prefix}_boxes", Boxes(torch.tensor(boxes)))
    instances.set(f"{prefix}_classes", torch.tensor(classes))
    for name, value in more.items():
        instances.set(name, value)
    return instances


def test_boxes_are_scaled_to_the_enlarged_image():
    image = np.full((100, 100, 3), 60, dtype=np.uint8)
    found = make_instances("pred", [[25.0, 50, 75, 75]], [1], scores=torch.tensor([0.9]))
    drawn = draw_instances(image, found, ["cat", "dog"])
    assert drawn.shape == (320, 320, 3)
    assert near(drawn[200, 80], PALETTE[1]) and near(drawn[239, 160], PALETTE[1])


@pytest.mark.parametrize("kind", ["polygons", "bitmap", "tensor"])
def test_masks_of_every_kind_are_tinted(kind):
    masks = torch.zeros(1, 100, 100, dtype=torch.bool)
    masks[0, 20:80, 20:80] = True
    polygon = [20, 20, 80, 20, 80, 80, 20, 80]
    fields = {
        "polygons": {"gt_masks": PolygonMasks([[polygon]])},
        "bitmap": {"gt_masks": BitMasks(masks)},
        "tensor": {"gt_masks": masks},
    }
    image = np.full((100, 100, 3), 60, dtype=np.uint8)
    truth = make_instances("gt", [[0.0, 0, 99, 99]], [0], **fields[kind])
    drawn = draw_instances(image, truth, ["cat"])
    expected = 0.6 * 60 + 0.4 * np.array(PALETTE[0])
    assert near(drawn[160, 160], expected) and near(drawn[40, 160], (60, 60, 60))


def test_predictions_under_the_threshold_are_left_out():
    image = torch.full((3, 320, 320), 60, dtype=torch.uint8)
    truth = make_instances("gt", [[10.0, 10, 50, 50]], [0])
    found = make_instances(
        "pred", [[10.0, 10, 50, 50], [60, 60, 90, 90]], [0, 1], scores=torch.tensor([0.9, 0.3])
    )
    picture = draw_predictions(image, truth, found, ["cat"], threshold=0.5)
    assert picture.shape == (320 + BAR, 2 * 320 + 8, 3)
    right = picture[BAR:, 328:]
    assert near(right[96, 160], PALETTE[0]) and near(right[240, 192], (60, 60, 60))
    empty = found[found.scores > 2]
    assert draw_predictions(image, None, empty, []).shape == (320 + BAR, 320, 3)


def test_contact_sheet_keeps_all_images():
    images = [np.full((10 + i, 20, 3), 50 * i, dtype=np.uint8) for i in range(5)]
    sheet = contact_sheet(images, columns=3)
    assert sheet.shape == (2 * 14 + 8, 3 * 20 + 2 * 8, 3)
    assert (sheet[7, 28 + 10] == 50).all() and (sheet[22 + 7, 10] == 150).all()
    assert contact_sheet([]).shape == (1, 1, 3)


def test_saved_pictures_are_those_the_report_reads(tmp_path):
    image = np.full((8, 9, 3), 7, dtype=np.uint8)
    for value, caption in ((1, "image 0"), (2, "image 1"), (3, "image 0")):
        path = save_picture(tmp_path, "views", image * value, caption)
    assert path.name == "views_000.png"  # the same caption again: replaced
    assert np.array_equal(np.asarray(Image.open(path)), image * 3)
    save_picture(tmp_path, "../odd group", image, "x")
    pictures = read_run(tmp_path).pictures
    assert [p.caption for p in pictures] == ["image 0", "image 1", "x"]
    assert pictures[2].path.parent == (tmp_path / "pictures").resolve()
    assert len(json.loads((tmp_path / "pictures/index.json").read_text())) == 3


def test_a_picture_may_say_its_image_its_iteration_and_what_it_is_sorted_by(tmp_path):
    image = np.full((8, 9, 3), 7, dtype=np.uint8)
    told = {"name": "a.jpg", "value": 2.5, "alt": "a dog"}
    save_picture(tmp_path, "failures", image, "a.jpg: loss 2.5", iteration=10, **told)
    save_picture(tmp_path, "failures", image, "a.jpg: loss 2", iteration=20, name="a.jpg", value=2)
    save_picture(tmp_path, "failures", image, "b.jpg: loss 1", iteration=20, name="b.jpg", value=1)
    # The same image at the same iteration, drawn again behind a kill.
    told["value"] = 3.0
    save_picture(tmp_path, "failures", image * 2, "a.jpg: loss 3", iteration=10, **told)
    entries = json.loads((tmp_path / "pictures/index.json").read_text())
    assert [(e["image"], e["iteration"], e["value"]) for e in entries] == [
        ("a.jpg", 10, 3.0),
        ("a.jpg", 20, 2),
        ("b.jpg", 20, 1),
    ]
    assert entries[0] == {
        "file": "failures_000.png",
        "caption": "a.jpg: loss 3",
        "group": "failures",
        "value": 3.0,
        "iteration": 10,
        "image": "a.jpg",
        "alt": "a dog",
    }
    assert "alt" not in entries[1]
    assert np.asarray(Image.open(tmp_path / "pictures/failures_000.png")).max() == 14


def test_pictures_can_be_taken_back(tmp_path):
    image = np.zeros((8, 9, 3), dtype=np.uint8)
    for name, iteration in (("a", 10), ("a", 20), ("b", 20)):
        save_picture(tmp_path, "failures", image, "x", name=name, iteration=iteration)
    save_picture(tmp_path, "views", image, "x")

    def left():
        entries = json.loads((tmp_path / "pictures/index.json").read_text())
        files = {path.name for path in (tmp_path / "pictures").glob("*.png")}
        assert files == {entry["file"] for entry in entries}
        return [(e["group"], e.get("image"), e.get("iteration")) for e in entries]

    drop_pictures(tmp_path, lambda entry: (entry.get("image"), entry.get("iteration")) == ("a", 20))
    assert left() == [("failures", "a", 10), ("failures", "b", 20), ("views", None, None)]
    drop_pictures(tmp_path, lambda entry: entry["group"] == "failures")
    assert left() == [("views", None, None)]
    drop_pictures(tmp_path / "nothing", lambda entry: True)


def test_label_maps_stand_beside_the_image_in_the_colours_of_their_classes():
    image = torch.full((3, 240, 240), 90, dtype=torch.uint8)
    labels = torch.zeros(240, 240, dtype=torch.long)
    labels[:, 120:], labels[200:] = 1, 255
    picture = draw_segmentation(image, labels, torch.full((240, 240), 13), ["class"] * 14)
    first, second, third = (picture[BAR:, x : x + 240] for x in (0, 248, 496))
    assert near(first[100, 100], (90, 90, 90))
    assert near(second[100, 50], PALETTE[0]) and near(second[100, 200], PALETTE[1])
    assert near(second[220, 50], BACKGROUND)
    assert near(third[100, 100], class_colors(14)[13])
    assert len(set(class_colors(27))) == 27
    unlabelled = draw_segmentation(image, None, labels, ["a", "b"])
    assert unlabelled.shape[1] < picture.shape[1] - 200
