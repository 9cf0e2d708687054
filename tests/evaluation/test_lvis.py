"""LVIS's AP against a slow reference, its rules by hand, and what its evaluator reports."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2_unsupdet.data import sources
from d2_unsupdet.evaluation import backend, build_evaluator
from d2_unsupdet.evaluation.ground_truth import from_json
from d2_unsupdet.evaluation.lvis import LvisEvaluator, best_of_each_image

SIZE = 200
CLASSES = 5
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def iou(a, b):
    x0, y0 = max(a[0], b[0]), max(a[1], b[1])
    x1, y1 = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    both = max(x1 - x0, 0) * max(y1 - y0, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def naive_ap(content, detections, category, threshold):
    """AP of one class: greedy matches, 101 points, only images that were searched for it."""
    scored, positives = [], 0
    for image in content["images"]:
        truths = [a["bbox"] for a in content["annotations"]
                  if (a["image_id"], a["category_id"]) == (image["id"], category)]  # fmt: skip
        positives += len(truths)
        if not truths and category not in image["neg_category_ids"]:
            continue
        found = [d for d in detections
                 if (d["image_id"], d["category_id"]) == (image["id"], category)]  # fmt: skip
        free = set(range(len(truths)))
        for d in sorted(found, key=lambda d: -d["score"]):
            best = max(free, key=lambda g: iou(d["bbox"], truths[g]), default=None)
            if best is not None and iou(d["bbox"], truths[best]) >= threshold:
                free.remove(best)
                scored.append((d["score"], True))
            elif category not in image["not_exhaustive_category_ids"]:
                scored.append((d["score"], False))
    if not positives:
        return None
    hits = np.cumsum([hit for _, hit in sorted(scored, key=lambda s: -s[0])])
    if not len(hits):
        return 0.0
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / positives
    points = [max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]
    return float(np.mean(points))


def random_case(seed=0, images=12):
    rng = np.random.default_rng(seed)

    def box():
        return [float(v) for v in (*rng.integers(0, 100, 2), *rng.integers(30, 90, 2))]

    content = {
        "categories": [
            {"id": k + 1, "name": f"c{k}", "frequency": "rcf"[k % 3]} for k in range(CLASSES)
        ],
        "images": [],
        "annotations": [],
    }
    detections = []
    for image in range(1, images + 1):
        present = set(rng.choice(np.arange(1, CLASSES + 1), 2, replace=False).tolist())
        rest = [k for k in range(1, CLASSES + 1) if k not in present]
        content["images"].append(
            {
                "id": image,
                "width": SIZE,
                "height": SIZE,
                "coco_url": f"http://x/train2017/{image}.jpg",
                "neg_category_ids": rest[:1],
                "not_exhaustive_category_ids": [min(present)] if image % 2 else [],
            }
        )
        for category in sorted(present):
            for _ in range(rng.integers(1, 4)):
                given = box()
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": image,
                        "bbox": given,
                        "category_id": category,
                        "area": given[2] * given[3],
                    }  # fmt: skip
                )
                near = (np.array(given) + rng.normal(0, 6, 4)).tolist()
                detections.append({"image_id": image, "bbox": near, "category_id": category,
                                   "score": float(rng.random())})  # fmt: skip
        for _ in range(8):
            detections.append({"image_id": image, "bbox": box(), "score": float(rng.random()),
                               "category_id": int(rng.integers(1, CLASSES + 1))})  # fmt: skip
    return content, detections


@pytest.mark.parametrize("at_once", [100, 2])
def test_equals_a_slow_reference(tmp_path, monkeypatch, at_once):
    """However many classes are scored at once."""
    monkeypatch.setattr(backend, "_CLASSES_AT_ONCE", at_once)
    content, detections = random_case()
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    curves = backend.score(from_json(path), detections, "bbox", limits=[300], federated=True)
    for category in range(1, CLASSES + 1):
        for threshold in (0.5, 0.75):
            expected = naive_ap(content, detections, category, threshold)
            found = curves.average_precision(iou=threshold, category=category - 1)
            assert found == pytest.approx(100 * expected, abs=1e-6)
    everything = [naive_ap(content, detections, k, t) for k in range(1, 6) for t in THRESHOLDS]
    assert curves.average_precision() == pytest.approx(100 * np.mean(everything), abs=1e-6)


def test_a_part_at_a_time_changes_nothing_in_coco(tmp_path, monkeypatch):
    content, detections = random_case(1)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    whole = backend.score(from_json(path), detections, "bbox")
    monkeypatch.setattr(backend, "_CLASSES_AT_ONCE", 2)
    parts = backend.score(from_json(path), detections, "bbox")
    assert np.array_equal(whole.precision, parts.precision)
    assert np.array_equal(whole.recall, parts.recall)


def test_the_best_of_an_image_over_all_classes():
    detections = [{"image_id": i, "score": s} for i, s in ((1, 0.1), (2, 0.2), (1, 0.3), (1, 0.2))]
    kept = best_of_each_image(detections, 2)
    assert sorted((d["image_id"], d["score"]) for d in kept) == [(1, 0.2), (1, 0.3), (2, 0.2)]


def test_the_evaluator_of_lvis_data_reports_the_three_groups(tmp_path):
    content, _ = random_case()
    for image in content["images"]:
        place = tmp_path / f"train2017/{image['id']}.jpg"
        place.parent.mkdir(exist_ok=True)
        place.touch()
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    name = "lvis_evaluator_test"
    sources.register_lvis(name, path, tmp_path)
    evaluator = build_evaluator(name)
    assert isinstance(evaluator, LvisEvaluator)
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        found = Instances((SIZE, SIZE))
        boxes = torch.tensor([a["bbox"] for a in own])
        found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        found.pred_classes = torch.tensor([a["category_id"] - 1 for a in own])
        found.scores = torch.rand(len(own))
        evaluator.process([{"image_id": image["id"]}], [{"instances": found}])
    scores = evaluator.evaluate()["bbox"]
    assert list(scores) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
    assert scores["AP"] == scores["APr"] == scores["APc"] == scores["APf"] == pytest.approx(100)
