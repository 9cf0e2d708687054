"""The quality report on boxes whose scores can be worked out by hand, and its picture."""

import json

import cv2
import numpy as np
import pytest
from detectron2.structures import BoxMode
from PIL import Image

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import PriorStore
from d2_unsupdet.priors.quality import (
    covered,
    draw_sheet,
    evenly,
    measure,
    summary,
    true_boxes,
    write_report,
)


@pytest.fixture
def labelled(tmp_path):
    """Two images of 100 x 50, three objects and a crowd; one image without boxes."""
    records = []
    for i in range(2):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), np.full((50, 100, 3), 80, np.uint8))
        records.append({"file_name": str(path), "width": 100, "height": 50})
    exact = {"bbox": [0, 0, 50, 50], "bbox_mode": BoxMode.XYXY_ABS}
    shifted = {"bbox": [60, 0, 20, 40], "bbox_mode": BoxMode.XYWH_ABS}
    crowd = {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 1}
    records[0]["annotations"] = [exact, shifted, crowd]
    records[1]["annotations"] = [exact]
    store = PriorStore(tmp_path / "store", root=str(tmp_path))
    none = np.zeros((0, 4)), np.zeros(0)
    # ten boxes of nothing, then the first object, and 2/3 of the second one
    boxes = np.array([[0.9, 0.9, 1, 1]] * 10 + [[0, 0, 0.5, 1], [0.6, 0, 0.8, 0.8 * 2 / 3]])
    with store.write(0, {"source": "hand"}) as writer:
        writer.add(records[0], 100, 50, boxes, np.ones(12))
        writer.add(records[1], 100, 50, *none)
    return store.open(), records


def test_recall_counts_and_sizes(labelled):
    report = measure(*labelled)
    assert report["objects"] == 3
    assert report["recall"]["IoU 0.5"] == {
        "first 10": 0.0,
        "first 30": 0.6667,
        "first 100": 0.6667,
        "first 1000": 0.6667,
    }
    assert report["recall"]["IoU 0.7"]["first 1000"] == 0.3333
    counts = report["boxes_an_image"]
    assert (counts["mean"], counts["least"], counts["most"], counts["without"]) == (6, 0, 12, 1)
    share = report["sizes"]["share"]  # sides of sqrt(.01) = .1, sqrt(.5) = .71, sqrt(.107) = .33
    assert share[0] + share[1] == pytest.approx(10 / 12, abs=1e-3)
    assert share[3] == share[7] == pytest.approx(1 / 12, abs=1e-3)
    text = summary(report)
    assert "first 30 66.7" in text and "1 images without" in text


def test_without_labels_there_is_no_recall(labelled):
    generation, records = labelled
    bare = [{"file_name": record["file_name"]} for record in records]  # no sizes either
    report = measure(generation, bare)
    assert "recall" not in report and report["not_in_store"] == 0


def test_a_store_of_other_images_is_an_error(labelled, tmp_path):
    with pytest.raises(UserError, match="knows none of the 1 images"):
        measure(labelled[0], [{"file_name": str(tmp_path / "other.png"), "width": 9, "height": 9}])


def test_the_sheet_shows_boxes_and_labels(labelled, tmp_path):
    sheet = draw_sheet(*labelled, boxes=12)
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert {(255, 60, 40), (255, 210, 0), (255, 255, 255), (80, 80, 80)} <= colours
    write_report(*labelled, tmp_path / "report")
    with Image.open(tmp_path / "report/contact_sheet.png") as picture:
        assert picture.size == sheet.shape[1::-1]
    assert json.loads((tmp_path / "report/quality.json").read_text())["looked_at"] == 2


def test_small_parts():
    records = [{"file_name": str(i)} for i in range(10)]
    assert [r["file_name"] for r in evenly(records, 3)] == ["0", "4", "9"]
    assert true_boxes({}).shape == (0, 4)
    truth = np.array([[0, 0, 2, 2.0], [5, 5, 5, 5.0]])  # the second has no area: nothing covers it
    found = np.array([[5, 5, 5, 5.0], [0, 0, 2, 1.2]])
    assert covered(truth, found)[:, 0].tolist() == [1, 0]  # IoU 0.6
