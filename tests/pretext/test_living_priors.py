"""What JoinDet finds in an image: sources, coordinates, the filter, the two kinds of heads."""

import numpy as np
import pytest
import torch

from d2_unsupdet.detectors.structures import Decoded
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.living_priors import INSTANCE, REGION, LivingPriors
from d2_unsupdet.priors.eigen_attention import EigenAttention
from tests.detectors.tiny import NAMES
from tests.pretext.tiny_boxes import pixels, tiny_pretext


def image(height=96, width=128, seed=0):
    random = torch.Generator().manual_seed(seed)
    return {"image": pixels(3, height, width, random=random)}


def model(name="deformable_detr", **options):
    return tiny_pretext("join_det", name, priors__stride=16, **options).eval()


class Box(EigenAttention):
    """An attention that always sees cells 1:3 x 2:5, and keeps the shapes it was shown."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __call__(self, features):
        self.shapes.append(tuple(features.shape[-2:]))
        mask = np.zeros(features.shape[-2:], bool)
        mask[1:3, 2:5] = True
        return mask


REGION_BOX = [[2 / 8, 1 / 6, 5 / 8, 3 / 6]]  # 6 x 8 cells of stride 16


@pytest.mark.parametrize("name", NAMES)
def test_every_detector_gives_both_kinds(name):
    pretext = model(name)
    first = pretext.initial_priors(image())
    assert first.kinds is None or (first.kinds == REGION).all()
    second = pretext.refreshed_priors(image(), first)
    assert 0 < len(second) <= 30
    assert (second.boxes >= 0).all() and (second.boxes <= 1).all()
    assert (second.boxes[:, 2:] > second.boxes[:, :2]).all()


def test_regions_are_normalised_boxes_of_the_wanted_stride():
    pretext, attention = model(), Box()
    pretext.priors.attention = attention
    pretext.priors.sources = {"regions"}
    for found in (
        pretext.priors.initial(pretext.detector, image()),
        pretext.priors.current(pretext.detector, image()),
    ):
        np.testing.assert_allclose(found.boxes, REGION_BOX)
        np.testing.assert_array_equal(found.kinds, [REGION])
        np.testing.assert_array_equal(found.scores, [1])
    assert attention.shapes == [(6, 8), (6, 8)]
    pretext.priors.stride = 32
    pretext.priors.current(pretext.detector, image())
    assert attention.shapes[-1] == (3, 4)


def test_padding_is_no_part_of_the_graph():
    """A batch that is padded to a multiple of 64 shows the attention the image alone."""
    pretext, attention = model(), Box()
    pretext.priors.attention, pretext.priors.sources = attention, {"regions"}
    pretext.detector.size_divisibility = 64
    found = pretext.priors.current(pretext.detector, image(80, 100))
    assert attention.shapes == [(5, 7)]  # of 8 x 8
    np.testing.assert_allclose(found.boxes, [[32 / 100, 16 / 80, 80 / 100, 48 / 80]])


def decoded(logits, boxes):
    """Two layers, the first of which would find one other box."""
    logits, boxes = torch.tensor(logits), torch.tensor(boxes)
    first = torch.zeros_like(logits), torch.full_like(boxes, 0.25)
    first[0][:1, 0] = 9.0
    both = [torch.stack([a, b])[:, None] for a, b in zip(first, (logits, boxes), strict=True)]
    return Decoded(torch.zeros(2, 1, len(boxes), 8), *both)


BOXES = [[0.4, 0.3, 0.3, 0.3], [0.9, 0.9, 0.1, 0.1], [0.5, 0.5, 0.4, 0.4], [0.1, 0.9, 0.4, 0.4]]


def answers(pretext, monkeypatch, logits, boxes=BOXES, **settings):
    """Current priors of a detector whose decoder says what the test wants."""
    pretext.priors.attention = Box()
    for name, value in settings.items():
        setattr(pretext.priors, name, value)
    monkeypatch.setattr(pretext.detector, "decode", lambda *_: decoded(logits, boxes))
    return pretext.priors.current(pretext.detector, image())


def test_softmax_keeps_what_argmax_calls_an_object(monkeypatch):
    logits = [[0.0, 1.0], [3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]  # object, no object
    found = answers(model(), monkeypatch, logits, sources={"predictions"})
    np.testing.assert_array_equal(found.kinds, [INSTANCE] * 3)
    expected = torch.tensor([3.0, 2.0, 1.0]).sigmoid()
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
    np.testing.assert_allclose(found.boxes[1], [0, 0.7, 0.3, 1], atol=1e-6)  # cut at the edge


def test_focal_keeps_the_best_above_a_floor(monkeypatch):
    pretext = model()
    pretext.detector.heads.background = False
    logits = [[-1.0], [0.5], [2.0], [1.0]]
    settings = {"sources": {"predictions"}, "candidates": 3}
    found = answers(pretext, monkeypatch, logits, **settings)
    np.testing.assert_allclose(found.scores, torch.tensor([2.0, 1.0, 0.5]).sigmoid(), rtol=1e-6)
    found = answers(pretext, monkeypatch, logits, **settings, floor=0.7)
    assert len(found) == 2


def test_instances_are_what_the_attention_confirms(monkeypatch):
    logits = [[1.0, 0.0], [4.0, 0.0], [3.0, 0.0], [2.0, 0.0]]
    found = answers(model(), monkeypatch, logits, sources={"instances"})
    # Box 0 lies mostly on the foreground; 1 and 3 not at all; 2 on a third of its cells.
    np.testing.assert_allclose(found.boxes, [[0.25, 0.15, 0.55, 0.45]], atol=1e-6)
    both = answers(model(), monkeypatch, logits, sources={"regions", "instances"})
    np.testing.assert_array_equal(both.kinds, [REGION, INSTANCE])
    loose = answers(model(), monkeypatch, logits, sources={"instances"}, overlap=0.0)
    assert len(loose) == 4


@pytest.mark.parametrize("others", [{"regions"}, {"instances"}])
def test_predictions_are_not_filtered_whatever_else_is_asked_for(monkeypatch, others):
    logits = [[1.0, 0.0], [4.0, 0.0], [3.0, 0.0], [2.0, 0.0]]
    found = answers(model(), monkeypatch, logits, sources={"predictions"} | others)
    assert (found.kinds == INSTANCE).sum() == 4
    assert (found.kinds == REGION).sum() == ("regions" in others)


def test_where_nothing_stands_out_the_previous_stay():
    pretext = model()
    previous = pretext.initial_priors(image())
    pretext.priors.attention = lambda features: None
    assert pretext.refreshed_priors(image(), previous) is previous
    assert len(pretext.initial_priors(image())) == 0


def test_an_unknown_source_is_a_sentence():
    with pytest.raises(UserError, match="name one or more of regions, instances, predictions"):
        LivingPriors(sources=["region"])
