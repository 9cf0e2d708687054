"""Clusters against classes: known confusions, loops over pixels, the split by class."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_unsupdet.data import catalog
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation import ClusteringEvaluator, build_evaluator
from d2_unsupdet.evaluation.clustering import hungarian, legacy_scores
from tests.ranks import run_ranks

NAMES = ["sky", "cat", "dog", "road", "wall", "tree"]


def dataset(classes: int = 6, things=(1, 2), **more) -> str:
    name = f"clustering_test_{classes}_{len(more)}_{len(things)}"
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(
            stuff_classes=NAMES[:classes],
            thing_class_ids=list(things),
            ignore_label=255,
            evaluator_type="clustering",
            **more,
        )
    return name


def logits_of(clusters: torch.Tensor, count: int) -> torch.Tensor:
    return F.one_hot(clusters, count).movedim(-1, 0).float()


def score(labels, clusters, count: int, name: str | None = None, **options) -> dict[str, float]:
    """One image a row, through the evaluator."""
    evaluator = ClusteringEvaluator(dataset_name=name or dataset(), **options)
    evaluator.reset()
    for label, cluster in zip(labels, clusters, strict=True):
        evaluator.process([{"sem_seg": label}], [{"sem_seg": logits_of(cluster, count)}])
    return evaluator.evaluate()["sem_seg"]


def random_maps(classes: int, clusters: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (3, 8, 9), generator=generator)
    noise = torch.randint(0, clusters, (3, 8, 9), generator=generator)
    keep = torch.rand((3, 8, 9), generator=generator) < 0.6
    order = torch.randperm(clusters, generator=generator)
    return labels, torch.where(keep, order[labels % clusters], noise)


@pytest.mark.parametrize("seed", range(3))
def test_a_permuted_perfect_prediction_scores_100_in_all(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 6, (2, 10, 10), generator=generator)
    order = torch.randperm(6, generator=generator)
    scores = score(labels, order[labels], 6)
    assert {f"{m}{p}" for m in ("mIoU", "mACC", "pACC") for p in ("", "-things", "-stuff")} < set(
        scores
    )
    assert all(value == 100 for value in scores.values()), scores


def brute_force(labels: np.ndarray, clusters: np.ndarray, classes: int, count: int):
    """Every one-to-one assignment, every metric by masks."""
    best, chosen = -1, None
    for order in itertools.permutations(range(max(classes, count)), count):
        hits = sum(((clusters == k) & (labels == order[k])).sum() for k in range(count))
        if hits > best:
            best, chosen = hits, order
    predicted = np.array([c if c < classes else -1 for c in chosen])[clusters]
    ious, accuracies = [], []
    for c in range(classes):
        hit = ((predicted == c) & (labels == c)).sum()
        union = ((predicted == c) | (labels == c)).sum()
        ious.append(100 * hit / union if union else math.nan)
        accuracies.append(100 * hit / (labels == c).sum())
    return best, predicted, np.array(ious), np.array(accuracies)


@pytest.mark.parametrize("classes, count", [(5, 5), (4, 6), (6, 4)])
def test_scores_equal_masks_under_the_best_assignment(classes, count):
    labels, clusters = random_maps(classes, count)
    name = dataset(classes)
    scores = score(labels, clusters, count, name)
    true = labels.numpy()
    best, _, ious, accuracies = brute_force(true, clusters.numpy(), classes, count)
    assert scores["pACC"] == pytest.approx(100 * best / true.size)
    assert scores["mIoU"] == pytest.approx(np.nanmean(ious))
    assert scores["mACC"] == pytest.approx(accuracies.mean())
    assert scores["mIoU-things"] == pytest.approx(np.nanmean(ious[[1, 2]]))
    stuff = [k for k in range(classes) if k not in (1, 2)]
    assert scores["mIoU-stuff"] == pytest.approx(np.nanmean(ious[stuff]))
    assert scores["mACC-stuff"] == pytest.approx(accuracies[stuff].mean())
    things = np.isin(true, [1, 2])
    right = 100 * (accuracies[1] * (true == 1).sum() + accuracies[2] * (true == 2).sum()) / 100
    assert scores["pACC-things"] == pytest.approx(right / things.sum())
    for k in range(classes):
        assert scores[f"IoU-{NAMES[k]}"] == pytest.approx(ious[k])


def test_a_known_confusion():
    """Two classes, two clusters, swapped: 3 + 4 of 10 right."""
    confusion = np.array([[1, 3], [4, 2]])
    assigned = hungarian(confusion)
    assert assigned.classes == [1, 0]
    assert assigned.matrix.tolist() == [[3, 1], [2, 4]]


def test_spare_clusters_and_spare_classes():
    more = hungarian(np.array([[5, 0, 1], [0, 2, 6]]))
    assert more.classes == [0, -1, 1]
    assert more.matrix.tolist() == [[5, 1, 0], [0, 6, 2]]  # the last column has no class
    fewer = hungarian(np.array([[5, 0], [0, 2], [1, 3]]))
    assert fewer.classes == [0, 2]
    assert fewer.matrix.tolist() == [[5, 0, 0], [0, 0, 2], [1, 0, 3]]


def test_ignored_labels_count_nowhere_and_strays_are_said(monkeypatch):
    said = []
    module = "d2_unsupdet.evaluation.clustering.warn_once"
    monkeypatch.setattr(module, lambda message: said.append(message))
    labels, clusters = random_maps(6, 6)
    expected = score(labels, clusters, 6)
    void = torch.tensor([255, -1, 255])[:, None].expand(3, 5).reshape(3, 5, 1)
    labels = torch.cat([labels.float(), void.expand(3, 5, 9).float()], dim=1).long()
    clusters = torch.cat([clusters, torch.zeros(3, 5, 9).long()], dim=1)
    assert score(labels, clusters, 6) == expected and not said
    labels[0, -1, 0] = 77
    assert score(labels, clusters, 6) == expected
    assert "1 pixels with values that are neither" in said[0]


def test_fine_labels_go_through_the_lookup():
    table = [255] * 256
    for value, coarse in {10: 0, 11: 0, 20: 1, 30: 2}.items():
        table[value] = coarse
    name = dataset(3, (0,), label_lookup=table)
    labels = torch.tensor([[10, 11, 20, 30, 99, 255]])[None]
    clusters = torch.tensor([[2, 2, 0, 1, 1, 1]])[None]
    assert score(labels, clusters, 3, name)["mIoU"] == 100


def test_the_official_partition_is_by_cluster_and_only_on_request():
    """Worked by hand: both numbers differ as soon as the assignment is no identity."""
    confusion = np.array([[0, 8, 0], [6, 0, 2], [0, 1, 7]])  # class 0 got cluster 1, and so on
    assigned = hungarian(confusion)
    assert assigned.classes == [1, 0, 2]
    found = legacy_scores(confusion, assigned.classes, 1)
    # The first cluster holds class 1, and inside that one-by-one square all is right.
    assert found["legacy-pACC-things"] == 100 and found["legacy-mIoU-things"] == 100
    square = np.array([[8, 0], [1, 7]])
    assert found["legacy-pACC-stuff"] == pytest.approx(100 * 15 / square.sum())
    assert found["legacy-mIoU-stuff"] == pytest.approx((100 * 8 / 9 + 100 * 7 / 8) / 2)
    labels, clusters = random_maps(6, 6)
    assert not any(key.startswith("legacy") for key in score(labels, clusters, 6))
    assert "legacy-mIoU-things" in score(labels, clusters, 6, legacy_partition=True)
    with pytest.raises(UserError, match="as many clusters as classes"):
        score(labels, clusters, 7, legacy_partition=True)


def test_a_class_that_is_nowhere_is_left_out_of_the_mean():
    labels = torch.tensor([[0, 0, 1, 1]])[None]
    scores = score(labels, 1 - labels, 6)
    assert scores["mIoU"] == scores["mACC"] == scores["pACC"] == 100
    assert math.isnan(scores["IoU-tree"])


def test_the_assignment_is_written_down(tmp_path):
    labels, clusters = random_maps(6, 6)
    score(labels, clusters, 6, output_dir=str(tmp_path))
    content = json.loads((tmp_path / "clusters.json").read_text())
    assert sorted(content["class_of_cluster"]) == list(range(6)) and content["classes"] == NAMES
    assert np.sum(content["pixels_class_cluster"]) == labels.numel()


def test_the_embedded_sets_know_their_things():
    evaluator = ClusteringEvaluator(dataset_name="toy_sem_seg_val")
    assert len(evaluator.class_names) == 9 and evaluator.things == set(range(1, 9))
    assert len(catalog.class_names("toy_sem_seg_val")) == 9
    assert len(catalog.class_names("toy_val")) == 8
    assert isinstance(build_evaluator(dataset()), ClusteringEvaluator)


def test_what_does_not_fit_is_a_sentence():
    evaluator = ClusteringEvaluator(dataset_name=dataset())
    maps = {"sem_seg": torch.zeros(6, 4, 4)}
    with pytest.raises(UserError, match="gives no 'sem_seg'"):
        evaluator.process([{}], [{"instances": None}])
    with pytest.raises(UserError, match="without a label map"):
        evaluator.process([{"file_name": "a.jpg"}], [maps])
    with pytest.raises(UserError, match=r"map is \(4, 4\) but the label map of .* is \(5, 4\)"):
        evaluator.process([{"sem_seg": torch.zeros(5, 4).long()}], [maps])
    evaluator.reset()
    with pytest.raises(UserError, match="nothing to score"):
        evaluator.evaluate()
    evaluator.process([{"sem_seg": torch.full((4, 4), 255)}], [maps])
    with pytest.raises(UserError, match="No pixel of"):
        evaluator.evaluate()


def one_of_two(rank: int) -> dict | None:
    labels, clusters = random_maps(6, 6)
    evaluator = ClusteringEvaluator(dataset_name=dataset())
    evaluator.reset()
    if rank == 0:  # the other rank sees no image
        for label, cluster in zip(labels, clusters, strict=True):
            evaluator.process([{"sem_seg": label}], [{"sem_seg": logits_of(cluster, 6)}])
    found = evaluator.evaluate()
    return dict(found["sem_seg"]) if found else None


def test_ranks_are_added_up_on_the_first():
    first, second = run_ranks(one_of_two)
    labels, clusters = random_maps(6, 6)
    assert first == score(labels, clusters, 6) and second is None
