"""VocEvaluator against Detectron2's scorer on real VOC files, and by hand."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation.pascal_voc_evaluation import voc_eval
from detectron2.structures import Boxes, BoxMode, Instances

from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.voc import Boxes as ClassBoxes
from d2_unsupdet.evaluation.voc import VocEvaluator, class_ap

NAMES = ["cat", "dog"]
OBJECT = (
    "<object><name>{}</name><pose>Left</pose><truncated>0</truncated><difficult>{}</difficult>"
    "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def random_image(rng, index):
    """Integer VOC boxes (1-based, inclusive), and detections around them in 0.1 pixel steps."""
    corners = rng.integers(1, 60, (rng.integers(1, 5), 2))
    boxes = np.concatenate([corners, corners + rng.integers(5, 40, corners.shape)], axis=1)
    classes, difficult = rng.integers(0, 2, len(boxes)), rng.random(len(boxes)) < 0.25
    found = np.concatenate([boxes + rng.integers(-40, 40, boxes.shape) / 10, boxes[::-1] + 3])
    found_classes = np.concatenate([classes, rng.integers(0, 2, len(boxes))])
    return f"{index:06d}", boxes, classes, difficult, found, found_classes


@pytest.fixture
def scene(tmp_path):
    """Writes the files that Detectron2's scorer reads, and registers the same as records."""
    rng = np.random.default_rng(3)
    images = [random_image(rng, i) for i in range(15)]
    scores = iter(rng.permutation(1000)[:500] / 1000)  # no ties: their order is not defined
    records, outputs = [], []
    lines = {c: [] for c in range(2)}
    for image_id, boxes, classes, difficult, found, found_classes in images:
        xml = [
            OBJECT.format(NAMES[c], int(d), *b)
            for b, c, d in zip(boxes, classes, difficult, strict=True)
        ]
        (tmp_path / f"{image_id}.xml").write_text(f"<annotation>{''.join(xml)}</annotation>")
        annotations = [
            {
                "bbox": [b[0] - 1.0, b[1] - 1.0, float(b[2]), float(b[3])],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": int(c),
                "difficult": int(d),
            }
            for b, c, d in zip(boxes, classes, difficult, strict=True)
        ]
        records.append({"image_id": image_id, "annotations": annotations})
        instances = Instances((100, 100))
        zero_based = torch.tensor(found, dtype=torch.float64) - torch.tensor([1.0, 1, 0, 0])
        instances.pred_boxes = Boxes(zero_based.float())
        instances.pred_classes = torch.tensor(found_classes)
        image_scores = [next(scores) for _ in found]
        instances.scores = torch.tensor(image_scores)
        outputs.append({"instances": instances})
        for box, c, s in zip(found, found_classes, image_scores, strict=True):
            lines[int(c)].append(f"{image_id} {s} " + " ".join(f"{v:.1f}" for v in box))
    (tmp_path / "images.txt").write_text("\n".join(record["image_id"] for record in records))
    for c, name in enumerate(NAMES):
        (tmp_path / f"found_{name}.txt").write_text("\n".join(lines[c]) + "\n")
    DatasetCatalog.register("voc_test_scene", lambda: records)
    MetadataCatalog.get("voc_test_scene").set(thing_classes=NAMES, year=2007)
    yield tmp_path, records, outputs
    DatasetCatalog.remove("voc_test_scene")
    MetadataCatalog.remove("voc_test_scene")


@pytest.mark.parametrize("metric", ["11-point", "all-point"])
def test_agrees_with_detectron2_on_files(scene, metric):
    folder, records, outputs = scene
    evaluator = VocEvaluator("voc_test_scene", metric=metric)
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([record], [output])
    scores = evaluator.evaluate()["bbox"]
    table = np.array(
        [
            [
                voc_eval(
                    str(folder / "found_{}.txt"),
                    str(folder / "{}.xml"),
                    str(folder / "images.txt"),
                    name,
                    ovthresh=percent / 100,
                    use_07_metric=metric == "11-point",
                )[2]
                for name in NAMES
            ]
            for percent in range(50, 100, 5)
        ]
    )
    assert 0.05 < table.mean() < 0.95
    assert scores["AP"] == pytest.approx(100 * table.mean(), abs=1e-4)
    assert scores["AP50"] == pytest.approx(100 * table[0].mean(), abs=1e-4)
    assert scores["AP75"] == pytest.approx(100 * table[5].mean(), abs=1e-4)
    assert scores["AP50-dog"] == pytest.approx(100 * table[0, 1], abs=1e-4)


def test_metric_follows_the_year(scene):
    assert VocEvaluator("voc_test_scene").metric == "11-point"
    assert VocEvaluator("voc_2012_val").metric == "all-point"
    with pytest.raises(UserError, match="'12-point'"):
        VocEvaluator("voc_test_scene", metric="12-point")


BOX = np.array([[0.0, 0, 10, 10]])


def boxes(count, values):
    return ClassBoxes(np.repeat(BOX, count, axis=0), np.array(values))


def test_difficult_objects_neither_help_nor_hurt():
    easy, hard = boxes(1, [0]), boxes(1, [1])
    assert class_ap([easy, hard], [boxes(1, [0.5]), boxes(1, [0.9])], 0.5) == 1
    assert class_ap([easy, hard], [boxes(1, [0.5]), boxes(0, [])], 0.5) == 1
    assert np.isnan(class_ap([hard], [boxes(1, [0.9])], 0.5))


def test_second_detection_of_an_object_is_false():
    truth = [boxes(1, [0]), boxes(1, [0])]
    found = [boxes(2, [0.9, 0.8]), boxes(1, [0.7])]
    # Ranks: hit, repeat, hit. All points: 1/2 at precision 1, 1/2 at 2/3.
    assert class_ap(truth, found, 0.5) == pytest.approx(1 / 2 + 1 / 3)
    # Eleven points: six up to recall 0.5 at 1, five at 2/3.
    assert class_ap(truth, found, 0.5, "11-point") == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_nothing_found_is_zero():
    for metric in ("11-point", "all-point"):
        assert class_ap([boxes(1, [0])], [boxes(0, [])], 0.5, metric) == 0
