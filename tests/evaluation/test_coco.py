"""CocoEvaluator: known values, category ids of every kind, two ranks, and what goes wrong."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, BoxMode, Instances

from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.coco import CocoEvaluator
from tests.ranks import run_ranks

HEIGHT, WIDTH = 200, 300
NAMES = ["cat", "dog"]


def instances(boxes, classes, scores=None, masks=False):
    result = Instances((HEIGHT, WIDTH))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    given = scores if scores is not None else [1 - 0.01 * i for i in range(len(boxes))]
    result.scores = torch.tensor(given, dtype=torch.float32)
    if masks:
        result.pred_masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(result.pred_masks, boxes, strict=True):
            mask[int(y0) : int(y1), int(x0) : int(x1)] = True
    return {"instances": result}


def polygon(box):
    x0, y0, x1, y1 = box
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def truth(image):
    """Two objects of each image: a cat and a dog, 100 x 50."""
    shift = 5.0 * image
    return [[10.0 + shift, 20, 110 + shift, 70], [30 + shift, 100, 130 + shift, 150]], [0, 1]


def register_records(name, images=4):
    def load():
        return [
            {
                "image_id": f"image_{i}",
                "file_name": f"{i}.jpg",
                "height": HEIGHT,
                "width": WIDTH,
                "annotations": [
                    {
                        "bbox": box,
                        "bbox_mode": BoxMode.XYXY_ABS,
                        "category_id": category,
                        "segmentation": polygon(box),
                    }
                    for box, category in zip(*truth(i), strict=True)
                ],
            }
            for i in range(images)
        ]

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(thing_classes=NAMES, evaluator_type="coco")
    return name


@pytest.fixture
def dataset(request):
    name = register_records(f"coco_test_{request.node.name}")
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def process(evaluator, predict, images=range(4), image_id="image_{}"):
    for i in images:
        evaluator.process([{"image_id": image_id.format(i)}], [predict(*truth(i))])
    return evaluator.evaluate()


def test_perfect_predictions_score_100(dataset):
    results = process(CocoEvaluator(dataset), lambda b, c: instances(b, c, masks=True))
    assert list(results) == ["bbox", "segm"]
    for task in results.values():
        assert task["AP"] == task["AP50"] == task["AP75"] == task["APm"] == pytest.approx(100)
        assert task["AP-cat"] == task["AP-dog"] == pytest.approx(100)
        assert task["AR@1"] == task["AR@100"] == pytest.approx(100)  # one of each class
        assert np.isnan(task["APs"]) and np.isnan(task["APl"])  # no such object


def test_shifted_boxes_score_by_hand(dataset):
    """A shift of 20 in 100 pixels: IoU 80 / 120 = 0.667, right at .5, .55, .6, .65: 4 of 10."""
    shifted = process(
        CocoEvaluator(dataset), lambda b, c: instances(np.add(b, [20, 0, 20, 0]).tolist(), c)
    )["bbox"]
    assert shifted["AP"] == pytest.approx(40)
    assert shifted["AP50"] == pytest.approx(100) and shifted["AP75"] == 0


def test_false_positive_before_each_hit_halves_the_precision(dataset):
    def predict(boxes, classes):
        wrong = [[200.0, 150, 290, 190]] * 2
        return instances(wrong + boxes, classes + classes, [0.9, 0.9, 0.5, 0.5])

    # Each class: 4 misses, then 4 hits; the best precision at any recall is 4 / 8.
    assert process(CocoEvaluator(dataset), predict)["bbox"]["AP"] == pytest.approx(50)


def test_class_agnostic_ignores_the_class_and_counts_recall(dataset):
    def swapped(boxes, classes):
        return instances(boxes, classes[::-1])

    assert process(CocoEvaluator(dataset), swapped)["bbox"]["AP"] == 0
    scores = process(CocoEvaluator(dataset, class_agnostic=True), swapped)["bbox_agnostic"]
    assert scores["AP"] == scores["AR@10"] == scores["AR@100"] == pytest.approx(100)
    assert scores["AR@1"] == pytest.approx(50)  # one of two objects an image
    assert scores["ARm@100"] == pytest.approx(100)


@pytest.mark.parametrize("ids", [(0, 1), (1, 2), (90, 7)], ids=["zero", "one", "holes"])
def test_category_ids_of_a_json_data_set(tmp_path, ids):
    """Class 0 is the smaller id (Detectron2's rule); the written file has the set's own ids."""
    small, large = sorted(ids)
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(4)
        ],
        "categories": [{"id": c, "name": n} for c, n in zip(ids, ("x", "y"), strict=True)],
        "annotations": [
            {
                "id": 2 * i + c,
                "image_id": i,
                "category_id": (small, large)[c],
                "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
                "area": 5000,
                "iscrowd": 0,
            }
            for i in range(4)
            for b, c in zip(*truth(i), strict=True)
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    name = f"coco_ids_{small}_{large}"
    register_coco_instances(name, {}, str(path), str(tmp_path))
    try:
        for catalog_was_read in (False, True):
            if catalog_was_read:
                DatasetCatalog.get(name)
            evaluator = CocoEvaluator(name, output_dir=str(tmp_path / "out"))
            for i in range(4):
                evaluator.process([{"image_id": i}], [instances(*truth(i))])
            assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
            written = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
            assert [d["category_id"] for d in written[:2]] == [small, large]
            assert {d["image_id"] for d in written} == set(range(4))
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_unread_images_are_counted_and_cost_recall(dataset, caplog):
    with caplog.at_level(logging.WARNING):
        scores = process(CocoEvaluator(dataset), instances, images=range(3))["bbox"]
    assert "1 of 4 images" in caplog.text and "image_3" in caplog.text
    assert scores["AP"] == pytest.approx(100 * 76 / 101)  # recall 0.75: 76 of the 101 points


@pytest.mark.parametrize("processed", [True, False])
def test_no_detections_score_zero_with_a_sentence(dataset, caplog, tmp_path, processed):
    evaluator = CocoEvaluator(dataset, output_dir=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        images = range(4) if processed else ()
        scores = process(evaluator, lambda b, c: instances([], []), images=images)
    assert scores["bbox"]["AP"] == 0
    assert "no detection to score" in caplog.text
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_detections_that_cannot_count_are_dropped_and_counted(dataset, caplog):
    def predict(boxes, classes):
        bad = [[float("nan")] * 4, boxes[0]]
        return instances(bad + boxes, [0, 9, *classes])

    with caplog.at_level(logging.WARNING):
        scores = process(CocoEvaluator(dataset), predict)["bbox"]
    assert scores["AP"] == pytest.approx(100)
    assert "4 detections have a box or score that is not finite" in caplog.text
    assert "4 detections have a class above" in caplog.text


def test_images_of_another_data_set_are_dropped_and_counted(dataset, caplog):
    with caplog.at_level(logging.WARNING):
        process(CocoEvaluator(dataset), instances, images=range(6))
    assert "2 predicted images are not in" in caplog.text


def test_mask_scores_without_masks_are_left_out_with_a_sentence(dataset, caplog):
    with caplog.at_level(logging.WARNING):
        results = process(CocoEvaluator(dataset, tasks=("bbox", "segm")), instances)
    assert list(results) == ["bbox"] and "no mask AP" in caplog.text


def test_reset_forgets(dataset):
    evaluator = CocoEvaluator(dataset)
    process(evaluator, instances)
    evaluator.reset()
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_unknown_task_is_a_sentence(dataset):
    with pytest.raises(UserError, match="'box'"):
        CocoEvaluator(dataset, tasks=["box"])


def evaluate_share(rank):
    """Each rank sees half of the images; image 0 reaches both, as padding samplers do."""
    evaluator = CocoEvaluator(register_records("coco_test_ranks"))
    results = process(evaluator, instances, images=[0, 2] if rank else [0, 1, 3])
    return results.get("bbox", {})


def test_two_ranks_gather_their_predictions_on_the_first():
    first, second = run_ranks(evaluate_share)
    assert first["AP"] == pytest.approx(100)
    assert second == {}
