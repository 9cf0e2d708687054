"""Both COCO back ends give the same bits, and the bits mean what a hand calculation says."""

import numpy as np
import pytest
from pycocotools import mask as mask_tools

from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.backend import choose_backend, score
from d2_unsupdet.evaluation.ground_truth import from_records

XYXY = 0
NAMES = ["cat", "dog", "bird"]


def rectangle_mask(box, height=100, width=120):
    mask = np.zeros((height, width), dtype=np.uint8, order="F")
    x0, y0, x1, y1 = (int(v) for v in box)
    mask[y0:y1, x0:x1] = 1
    return mask_tools.encode(mask)


def random_scene(seed, images=12):
    """Records and detections with crowds, empty images, absent classes and tied scores."""
    rng = np.random.default_rng(seed)
    records, detections = [], []

    def box():
        corner, side = rng.integers(0, 60, 2), rng.integers(3, 40, 2)
        return [float(v) for v in (*corner, *(corner + side))]

    for image in range(images):
        boxes = [box() for _ in range(0 if image % 4 == 3 else rng.integers(1, 7))]
        annotations = [
            {
                "bbox": b,
                "bbox_mode": XYXY,
                "category_id": int(rng.integers(0, 2)),
                "segmentation": rectangle_mask(b),
                "iscrowd": int(rng.random() < 0.2),
            }
            for b in boxes
        ]
        records.append(
            {"image_id": f"im{image}", "height": 100, "width": 120, "annotations": annotations}
        )
        found = [] if image == 1 else boxes + [box() for _ in range(4)]
        for b in found:
            b = list(np.clip(np.add(b, rng.integers(-2, 3, 4)), 0, 100))
            b[2:] = max(b[2], b[0] + 1), max(b[3], b[1] + 1)
            detections.append(
                {
                    "image_id": image + 1,
                    "category_id": int(rng.integers(0, 3)),
                    "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]],
                    "segmentation": rectangle_mask(b),
                    "score": float(rng.integers(1, 20) / 20),
                }
            )
    return from_records(records, NAMES), detections


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("limits", [(1, 10, 100), (1, 3)])
def test_back_ends_agree_to_the_last_bit(task, class_agnostic, limits):
    pytest.importorskip("faster_coco_eval")
    for seed in range(4):
        truth, detections = random_scene(seed)
        ours, reference = (
            score(
                truth, detections, task, limits=limits, class_agnostic=class_agnostic, backend=name
            )
            for name in ("faster-coco-eval", "pycocotools")
        )
        assert np.array_equal(ours.precision, reference.precision)
        assert np.array_equal(ours.recall, reference.recall)
        assert ours.average_precision() == reference.average_precision()
        assert (reference.precision > 0).any()


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_averages_are_those_of_pycocotools(task):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, detections = random_scene(7)
    curves = score(truth, detections, task)
    coco = COCO()
    coco.dataset = truth.dataset
    coco.createIndex()
    results = [{k: v for k, v in d.items() if task == "bbox" or k != "bbox"} for d in detections]
    evaluation = COCOeval(coco, coco.loadRes(results), task)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    areas = ("small", "medium", "large")
    ours = [curves.average_precision(), *(curves.average_precision(iou=t) for t in (0.5, 0.75))]
    ours += [curves.average_precision(area=a) for a in areas]
    ours += [curves.average_recall(limit=n) for n in (1, 10, 100)]
    ours += [curves.average_recall(limit=100, area=a) for a in areas]
    expected = [s * 100 if s >= 0 else np.nan for s in evaluation.stats]
    np.testing.assert_allclose(ours, expected, rtol=1e-13)


def test_scoring_changes_nothing_that_it_was_given():
    truth, detections = random_scene(1)
    first = score(truth, detections, "segm").precision
    assert np.array_equal(first, score(truth, detections, "segm").precision)
    assert all("id" not in d and "area" not in d for d in detections)


@pytest.mark.parametrize("backend", ["faster-coco-eval", "pycocotools"])
def test_nothing_found_scores_zero_and_nothing_there_is_undefined(backend):
    if backend == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    truth, detections = random_scene(2)
    assert score(truth, [], "bbox", backend=backend).average_precision() == 0
    empty = from_records([{"image_id": 1, "annotations": []}], NAMES)
    for found in ([], [{**detections[0], "image_id": 1}]):
        assert np.isnan(score(empty, found, "bbox", backend=backend).average_precision())


def test_unknown_back_end_is_a_sentence():
    with pytest.raises(UserError, match="pycocotools"):
        choose_backend("fast")


def test_missing_back_end_that_was_asked_for_is_a_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install faster-coco-eval"):
        choose_backend("faster-coco-eval")
    assert choose_backend() == "pycocotools"
