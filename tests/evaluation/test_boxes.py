"""Box sources scored alone: known values, chance that follows the image, scores by rank."""

import numpy as np
import pytest
from PIL import Image

from d2_unsupdet.data import catalog
from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.boxes import FindBoxes, score_source, table
from d2_unsupdet.priors.found import Found

DATA = "toy_val:images=6:size=64"


def drawn_boxes(record):
    boxes = []
    for entry in record["annotations"]:
        x, y, w, h = entry["bbox"]
        boxes.append([x, y, x + w, y + h] if entry["bbox_mode"] == 1 else entry["bbox"])
    return np.array(boxes, np.float32).reshape(-1, 4)


class Truth:
    """The drawn boxes, after `before` boxes that hit nothing; later ones have higher scores."""

    def __init__(self, before=0):
        self.before = before

    def __call__(self, record, pixels, rng):
        boxes = drawn_boxes(record)
        empty = np.tile(np.float32([0, 0, 1, 1]), (self.before, 1))
        found = np.concatenate([empty, boxes])
        return Found(found, np.arange(1, len(found) + 1, dtype=np.float32))


class Chance:
    def __call__(self, record, pixels, rng):
        corner = rng.integers(0, 30, (5, 2))
        return Found(np.hstack([corner, corner + 20]).astype(np.float32), np.ones(5, np.float32))


def test_the_truth_scores_100():
    scores = score_source(Truth(), DATA)
    found = [scores[name] for name in ("AP", "AP50", "AP75", "AR@100")]
    assert found == pytest.approx([100] * 4)
    objects = [len(drawn_boxes(record)) for record in catalog.get_dataset(DATA)]
    assert scores["AR@1"] == pytest.approx(100 * len(objects) / sum(objects))


def test_rank_decides_the_score_unless_the_sources_own_is_asked_for():
    """Nine misses come first: AR@10 knows one object an image; by their own scores they come
    last."""
    by_rank, own = (score_source(Truth(before=9), DATA, by_rank=r) for r in (True, False))
    objects = [len(drawn_boxes(record)) for record in catalog.get_dataset(DATA)]
    assert by_rank["AR@1"] == 0 and by_rank["AR@100"] == own["AR@100"] == pytest.approx(100)
    assert by_rank["AR@10"] == pytest.approx(100 * len(objects) / sum(objects))
    assert own["AP"] == pytest.approx(100) and by_rank["AP"] < 50


def test_a_limit_cuts_the_worst():
    scores = score_source(Truth(before=3), DATA, limit=3)
    assert scores["AR@3"] == 0 and scores["AP"] == 0


def test_some_images_are_scored_as_if_there_were_no_others():
    scores = score_source(Truth(), DATA, subset=2)
    assert scores["AP"] == scores["AR@100"] == pytest.approx(100)


def test_workers_change_nothing():
    alone, two = (score_source(Chance(), DATA, workers=n) for n in (0, 2))
    assert repr(alone) == repr(two)  # no value is itself where an image size is missing: nan


def test_chance_follows_seed_and_image(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)

    def boxes(image_id, seed):
        record = {"file_name": str(path), "image_id": image_id}
        return FindBoxes(Chance(), seed=seed)(record)["instances"].pred_boxes.tensor

    assert boxes(1, 0).equal(boxes(1, 0))
    assert not boxes(1, 0).equal(boxes(2, 0)) and not boxes(1, 0).equal(boxes(1, 1))


def test_data_without_labels_is_a_sentence(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="has no boxes to compare with"):
        score_source(Truth(), f"folder:{tmp_path}")


def test_table():
    text = table({"random": {"AP": 0.04, "AR@1": 1.25}, "other": {"AP": 100.0}}, ["AP", "AR@1"])
    assert text.splitlines()[1].split() == ["random", "0.0", "1.2"]
    assert text.splitlines()[2].split() == ["other", "100.0", "nan"]
    assert len(set(map(len, text.splitlines()))) == 1  # columns stand in line
