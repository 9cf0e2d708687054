"""COCO ground truth from files and from records: ids, masks, and what hand-made files leave out."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_tools

from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.ground_truth import compress, from_json, from_records

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 20.0, 10.0, 20.0]


def coco_file(tmp_path, **changes):
    content = {
        "images": [{"id": 0, "file_name": "a.jpg", "height": 50, "width": 60}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 3, "bbox": [10, 10, 20, 10]}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_hand_made_file_is_completed(tmp_path):
    truth = from_json(coco_file(tmp_path))
    (annotation,) = truth.dataset["annotations"]
    assert annotation["id"] == 1 and annotation["image_id"] == 1  # 0 would mean "no match"
    assert annotation["area"] == 200 and annotation["iscrowd"] == 0
    assert truth.image_ids == {0: 1} and not truth.has_masks


def test_class_index_is_the_rank_of_the_category_id_unless_said_otherwise(tmp_path):
    path = coco_file(tmp_path)
    assert from_json(path).category_ids == [3, 7]
    assert from_json(path).class_names == ["cat", "dog"]
    assert from_json(path, {3: 1, 7: 0}).class_names == ["dog", "cat"]


def test_images_and_annotations_of_unknown_ids_are_left_out(tmp_path):
    extra = [{"id": 5, "image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1]}]
    extra += [{"id": 6, "image_id": 0, "category_id": 4, "bbox": [0, 0, 1, 1]}]
    assert from_json(coco_file(tmp_path, annotations=extra)).dataset["annotations"] == []


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_unusable_file_is_a_sentence(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UserError, match="broken.json"):
        from_json(path)


def test_annotation_without_a_box_takes_it_from_the_mask_or_fails(tmp_path):
    entry = {"id": 4, "image_id": 0, "category_id": 3}
    masked = from_json(coco_file(tmp_path, annotations=[{**entry, "segmentation": [SQUARE]}]))
    assert masked.dataset["annotations"][0]["bbox"] == [10, 10, 20, 10]
    with pytest.raises(UserError, match="no 'bbox'"):
        from_json(coco_file(tmp_path, annotations=[entry]))


def test_a_polygon_of_two_corners_becomes_its_box(tmp_path):
    entry = {
        "image_id": 0,
        "category_id": 3,
        "bbox": [10, 10, 20, 10],
        "segmentation": [[1, 2, 3, 4]],
    }
    truth = from_json(coco_file(tmp_path, annotations=[entry]))
    assert truth.has_masks
    assert mask_tools.area(truth.dataset["annotations"][0]["segmentation"]) == 200


def test_records_become_the_same_ground_truth_as_their_file(tmp_path):
    from detectron2.structures import BoxMode

    entry = {"image_id": 0, "category_id": 3, "bbox": [10, 10, 20, 10], "segmentation": [SQUARE]}
    from_file = from_json(coco_file(tmp_path, annotations=[entry]))
    record = {
        "image_id": 0,
        "file_name": "a.jpg",
        "height": 50,
        "width": 60,
        "annotations": [
            {
                "bbox": [10, 10, 30, 20],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 0,
                "segmentation": [SQUARE],
            }
        ],
    }
    from_record = from_records([record], ["cat", "dog"], {3: 0, 7: 1})
    assert from_record.dataset["annotations"] == from_file.dataset["annotations"]
    assert from_record.category_ids == from_file.category_ids
    assert from_record.image_ids == from_file.image_ids


def test_three_mask_forms_are_one_mask():
    runs = compress([SQUARE], 50, 60)
    decoded = mask_tools.decode(runs)
    flat = decoded.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    for form in ({"size": [50, 60], "counts": counts}, {**runs, "counts": runs["counts"].decode()}):
        assert np.array_equal(mask_tools.decode(compress(form, 50, 60)), decoded)
