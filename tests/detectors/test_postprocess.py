"""From logits to detections, against loops over queries and classes."""

import pytest
import torch
from torchvision.ops import box_iou

from d2_unsupdet.detectors import BestClass, SuppressedPairs, TopPairs

SIZES = [(100, 200), (50, 30)]  # height, width


def scene(queries=6, classes=4, seed=0):
    torch.manual_seed(seed)
    logits = torch.randn(2, queries, classes).double() * 2
    return logits, torch.rand(2, queries, 4).double() * 0.6 + 0.1


def pixels(box, size):
    """Corners in pixels, not clipped."""
    cx, cy, w, h = box.tolist()
    height, width = size
    return [
        (cx - w / 2) * width,
        (cy - h / 2) * height,
        (cx + w / 2) * width,
        (cy + h / 2) * height,
    ]


def ranked_pairs(logits, boxes, size):
    """(score, class, box) of every query and class, best first."""
    rows = [
        (float(logits[n, k].sigmoid()), k, pixels(boxes[n], size))
        for n in range(logits.shape[0])
        for k in range(logits.shape[1])
    ]
    return sorted(rows, key=lambda row: -row[0])


def check(found, rows):
    assert found.labels.tolist() == [k for _, k, _ in rows]
    torch.testing.assert_close(found.scores, torch.tensor([s for s, _, _ in rows]).double())
    expected = torch.tensor([box for _, _, box in rows]).double().view(-1, 4)
    torch.testing.assert_close(found.boxes, expected, rtol=1e-5, atol=1e-4)


def test_detr_answers_once_a_query_with_no_object_set_aside():
    logits, boxes = scene()
    logits[0, 2, -1] = 9.0
    for b, found in enumerate(BestClass()(logits, boxes, SIZES)):
        assert len(found.scores) == 6
        for n in range(6):
            p = logits[b, n].exp() / logits[b, n].exp().sum()
            best = max(range(3), key=lambda k: float(p[k]))  # noqa: B023
            assert found.labels[n] == best
            torch.testing.assert_close(found.scores[n], p[best])
            assert found.boxes[n].tolist() == pytest.approx(pixels(boxes[b, n], SIZES[b]), rel=1e-5)


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("detections", [3, 10, 1000])
def test_top_pairs_are_the_best_of_all(classes, detections):
    logits, boxes = scene(classes=classes)
    for b, found in enumerate(TopPairs(detections=detections)(logits, boxes, SIZES)):
        check(found, ranked_pairs(logits[b], boxes[b], SIZES[b])[:detections])


def suppress(rows, threshold):
    kept = []
    for row in rows:
        rivals = [k for k in kept if k[1] == row[1]]
        boxes = torch.tensor([row[2], *(k[2] for k in rivals)])
        if not rivals or box_iou(boxes[:1], boxes[1:]).max() <= threshold:
            kept.append(row)
    return kept


@pytest.mark.parametrize("candidates", [15, 10000])
@pytest.mark.parametrize("detections", [5, 100])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_suppressed_pairs_are_the_best_that_do_not_lie_on_a_better_one(
    candidates, detections, classes, seed
):
    logits, boxes = scene(queries=20, classes=classes, seed=seed)
    boxes[:, 10:] = boxes[:, :10] + 0.02 * torch.rand(2, 10, 4).double()
    post = SuppressedPairs(candidates=candidates, threshold=0.6, detections=detections)
    for b, found in enumerate(post(logits, boxes, SIZES)):
        rows = ranked_pairs(logits[b], boxes[b], SIZES[b])[:candidates]
        kept = suppress(rows, 0.6)
        assert len(kept) < len(rows) or candidates == 15
        check(found, kept[:detections])


def test_classes_do_not_suppress_each_other():
    logits = torch.tensor([[[3.0, 2.0], [1.0, 4.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2]] * 2])
    (found,) = SuppressedPairs()(logits, boxes, SIZES[:1])
    assert found.labels.tolist() == [1, 0]
    assert found.scores.tolist() == pytest.approx(torch.tensor([4.0, 3.0]).sigmoid().tolist())


def test_the_iou_itself_does_not_suppress():
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.5, 0.6, 0.4, 0.4], [0.5, 0.55, 0.4, 0.4]]])
    logits = torch.tensor([[[3.0], [2.0], [1.0]]])  # overlaps with the first: 0.6 and 0.78
    (found,) = SuppressedPairs(threshold=0.7)(logits, boxes, [(100, 100)])
    assert found.scores.tolist() == pytest.approx(torch.tensor([3.0, 2.0]).sigmoid().tolist())


@pytest.mark.parametrize("post", [BestClass(), TopPairs(), SuppressedPairs()])
def test_scores_of_half_precision_logits_are_single(post):
    logits, boxes = scene()
    for found in post(logits.bfloat16(), boxes.float(), SIZES):
        assert found.scores.dtype == found.boxes.dtype == torch.float32


def test_defaults_are_the_papers():
    assert TopPairs().detections == 100
    post = SuppressedPairs()
    assert (post.candidates, post.threshold, post.detections) == (10000, 0.7, 100)
