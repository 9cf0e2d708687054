"""EdgeBoxes on known pictures: the object first, the two fallbacks for smooth images."""

import pickle

import numpy as np
import pytest

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.edge_boxes import EdgeBoxes, gradient_edges
from tests.priors.pictures import RECTANGLE, iou, patchwork, rectangle


def search(pixels, **settings):
    return EdgeBoxes(**settings)({}, pixels, np.random.default_rng(0))


def test_the_rectangle_comes_first():
    found = search(rectangle())
    assert iou(np.array(RECTANGLE), found.boxes[:1])[0] > 0.8
    assert (np.diff(found.scores) <= 0).all() and found.boxes.dtype == np.float32
    assert found.boxes.min() >= 0 and found.boxes[:, 2].max() <= 300
    assert len(search(patchwork(), count=5)) == 5


def test_edges_are_thin_sparse_and_directed():
    edges = gradient_edges(rectangle())
    rows, columns = np.nonzero(edges.strength)
    assert edges.strength.max() == 1 and len(rows) <= 0.05 * edges.strength.size
    left = edges.strength[100, 50:70].nonzero()[0] + 50  # one or two pixels about the left side
    assert 1 <= len(left) <= 2 and abs(left.mean() - 59.5) <= 0.5
    across = edges.orientation[100, left]  # 0 or pi: across a vertical side
    assert (np.minimum(across, np.pi - across) < 0.01).all()
    top = edges.strength[40:60, 120].nonzero()[0] + 40
    assert abs(edges.orientation[top, 120] - np.pi / 2).max() < 0.01


def test_what_is_too_small_for_edge_boxes_is_found_after_enlarging():
    """OpenCV gives no box under 1,000 pixels, and this image has 900."""
    pixels = rectangle(width=30, height=30, box=(8, 10, 24, 22))
    assert len(EdgeBoxes()._search(pixels)) == 0
    found = search(pixels)
    assert found.scores[0] > 0 and iou(np.array([8, 10, 24, 22]), found.boxes[:1])[0] > 0.6
    assert found.boxes.max() <= 30


def test_a_flat_image_gets_the_middle():
    found = search(np.full((80, 120, 3), 7, np.uint8))
    assert found.boxes.tolist() == [[30, 20, 90, 60]] and found.scores.tolist() == [0]


def test_it_can_be_sent_to_another_process():
    source = EdgeBoxes(count=9)
    before = source({}, rectangle(), np.random.default_rng(0))
    again = pickle.loads(pickle.dumps(source))({}, rectangle(), np.random.default_rng(1))
    np.testing.assert_array_equal(again.boxes, before.boxes)


def test_a_missing_model_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no structured-edge model .*model.yml.gz"):
        EdgeBoxes(model=tmp_path / "model.yml.gz")
