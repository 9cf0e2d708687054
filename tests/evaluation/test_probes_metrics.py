"""Average precision against hand-worked values and scikit-learn's; what a result holds."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from d2_unsupdet.evaluation.probes import ProbeSet, average_precision, summarise


def truth(targets, kind):
    targets = torch.tensor(targets, dtype=torch.int8)
    files = [f"{i}.jpg" for i in range(len(targets))]
    names = [f"class{i}" for i in range(targets.shape[1])]
    return ProbeSet(
        name="x",
        kind=kind,
        files=files,
        regions=[None] * len(files),
        targets=targets,
        classes=names,
    )


def test_average_precision_by_hand():
    # Hits at ranks 2 and 3: precision 1/2 and 2/3 at recall 1/2 and 1.
    scores, positive = torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.tensor([False, True, True, False])
    assert average_precision(scores, positive, interpolated=False) == pytest.approx(7 / 12)
    assert average_precision(scores, positive) == pytest.approx(2 / 3)  # 1/2 is raised to 2/3
    assert average_precision(-scores, torch.tensor([True, False, False, False])) == 0.25
    assert math.isnan(average_precision(scores, torch.zeros(4, dtype=torch.bool)))


@pytest.mark.parametrize("levels", [5, 1000])  # many ties, few ties
def test_average_precision_equals_sklearn(levels):
    random = np.random.default_rng(levels)
    scores = torch.from_numpy(random.integers(0, levels, 200).astype(np.float32))
    positive = torch.from_numpy(random.random(200) < 0.2)
    ours = average_precision(scores, positive, interpolated=False)
    assert ours == pytest.approx(average_precision_score(positive.numpy(), scores.numpy()))
    assert average_precision(scores, positive) >= ours


def test_difficult_images_are_left_out_of_their_class_alone():
    scores = torch.tensor([[0.9, 0.9], [0.8, 0.1], [0.1, 0.8]])
    found = summarise(scores, truth([[-1, 1], [1, 0], [0, 1]], "multi"))
    assert found == {"mAP": 100.0, "AP": {"class0": 100.0, "class1": 100.0}}
    # As an image without the class it would stand before the only hit.
    assert summarise(scores, truth([[0, 1], [1, 0], [0, 1]], "multi"))["AP"]["class0"] == 50.0


def test_a_class_that_no_image_shows_is_no_part_of_the_mean():
    found = summarise(torch.rand(3, 2), truth([[1, 0], [1, 0], [1, 0]], "multi"))
    assert found == {"mAP": 100.0, "AP": {"class0": 100.0, "class1": None}}


def test_accuracy_and_top5():
    targets = np.eye(7, dtype=int)
    scores = torch.arange(7.0).expand(7, 7)  # everything looks like class 6, then 5, ...
    found = summarise(scores, truth(targets, "image"))
    assert found == {"accuracy": pytest.approx(100 / 7), "top5": pytest.approx(500 / 7)}
    assert "top5" not in summarise(torch.eye(3), truth(np.eye(3, dtype=int), "image"))
