"""Boxes no trainer should see are left out, and said once with their count."""

import logging

import pytest
from detectron2.structures import BoxMode

from d2_unsupdet.data.annotations import clean_annotations, report_bad_boxes


def annotation(box, mode=BoxMode.XYXY_ABS, **more):
    return {"bbox": box, "bbox_mode": mode, "category_id": 0, **more}


BAD = [
    [10, 10, 10, 30],  # no width
    [10, 30, 20, 30],  # no height
    [20, 10, 10, 30],  # turned round
    [100, 0, 140, 20],  # right of the image
    [-30, 0, 0, 20],  # left of it
    [0, 60, 20, 80],  # below
    [float("nan"), 0, 20, 20],
]


@pytest.mark.parametrize("box", BAD)
def test_boxes_without_area_in_the_image_go(box):
    assert clean_annotations([annotation(box)], 100, 60) == []


def test_boxes_are_clipped_and_become_xyxy():
    cleaned = clean_annotations(
        [annotation([-5, 10, 20, 100]), annotation([90, 50, 20, 20], BoxMode.XYWH_ABS)], 100, 60
    )
    assert [a["bbox"] for a in cleaned] == [[0, 10, 20, 60], [90, 50, 100, 60]]
    assert all(a["bbox_mode"] == BoxMode.XYXY_ABS for a in cleaned)


def test_the_originals_stay_and_crowds_go():
    original = annotation([-5, 10, 20, 30])
    assert clean_annotations([original, annotation([0, 0, 9, 9], iscrowd=1)], 100, 60) != [original]
    assert original["bbox"] == [-5, 10, 20, 30]


def test_the_report_counts_a_data_set_once(caplog):
    good, boxes = annotation([0, 0, 9, 9]), [annotation(box) for box in BAD]
    records = [
        {"file_name": "a.jpg", "width": 100, "height": 60, "annotations": [good]},
        {"file_name": "b.jpg", "width": 100, "height": 60, "annotations": [good, *boxes[:3]]},
        {"file_name": "c.jpg", "width": 100, "height": 60, "annotations": boxes[3:]},
        {"file_name": "d.jpg", "annotations": boxes},  # of unknown size: the mapper's to see
        {"file_name": "e.jpg", "width": 100, "height": 60},
    ]
    with caplog.at_level(logging.WARNING):
        assert report_bad_boxes(records, "mine_train") == 7
        assert report_bad_boxes(records[:1], "mine_val") == 0
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "mine_train" in message and "7 boxes" in message and "b.jpg" in message
