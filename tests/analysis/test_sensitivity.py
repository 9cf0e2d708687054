"""Sensitivity of features whose answer is known, and its regions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, roi_align

from d2_unsupdet.analysis.samples import Sample
from d2_unsupdet.analysis.sensitivity import (
    draw,
    jittered_regions,
    region_similarity,
    sensitivity,
    summarise,
)
from d2_unsupdet.errors import UserError
from tests.analysis.coordinates import coordinate_image, places


def samples(count=24):
    rng, found = np.random.default_rng(0), []
    for i in range(count):
        x, y = rng.uniform(20, 200), rng.uniform(20, 140)
        box = (x, y, x + rng.uniform(60, 180), y + rng.uniform(60, 140))
        found.append(Sample(coordinate_image(), str(i), box))
    return found


def regions(box, seed=0, bins=20):
    return jittered_regions(torch.tensor(box), 224, bins=bins, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("box", [(60.0, 70, 120, 160), (0.0, 0, 224, 224), (200.0, 5, 220, 30)])
def test_one_region_in_each_bin_inside_the_image(box):
    for seed in range(5):
        found = regions(box, seed)
        there = ~found.isnan().any(1)
        assert there.sum() >= 17
        iou = box_iou(torch.tensor([box]), found[there])[0]
        assert torch.equal((iou * 20).long().clamp(max=19), torch.arange(20)[there])
        assert found[there].min() >= 0 and found[there].max() <= 224
    assert regions(box, 3).nan_to_num().equal(regions(box, 3).nan_to_num())
    assert not regions(box, 3).nan_to_num().equal(regions(box, 4).nan_to_num())


def test_similarity_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, 6, 14, 14, generator=generator)
    boxes = torch.tensor([[60.0, 70, 120, 160], [10, 10, 200, 90]])
    found = torch.stack([regions(tuple(b), bins=4) for b in boxes.tolist()])
    found[1, 2] = torch.nan
    values = region_similarity(feature, boxes, found, side=224, size=3)
    for i in range(2):
        for k in range(4):
            pair = torch.stack([boxes[i], found[i, k]])
            if pair.isnan().any():
                assert values[i, k].isnan()
                continue
            a, b = roi_align(feature[i : i + 1], [pair], 3, 14 / 224, aligned=True)
            expected = [
                F.cosine_similarity(a[:, r, c], b[:, r, c], dim=0)
                for r in range(3)
                for c in range(3)
            ]
            assert values[i, k] == pytest.approx(sum(expected).item() / 9, abs=1e-6)


def test_features_of_places_fall_with_the_overlap():
    result = sensitivity(places, samples(), side=224, batch=10)
    assert (np.diff(result.mean) > -0.005).all() and result.slope > 0.1
    assert result.mean[-1] > 0.999
    again = sensitivity(places, samples(), side=224, batch=24)
    np.testing.assert_allclose(again.mean, result.mean, rtol=1e-6)
    finer = sensitivity(lambda x: places(x, span=2 * np.pi), samples(), side=224)
    assert finer.slope > result.slope


def test_features_without_place_have_no_slope():
    result = sensitivity(lambda x: {"res4": torch.ones(len(x), 5, 14, 14)}, samples(4))
    assert result.slope == pytest.approx(0, abs=1e-6) and result.mean == pytest.approx(1)


def test_the_line_and_empty_bins():
    iou = torch.tensor([[0.1, 0.6], [0.2, torch.nan]])
    result = summarise(iou, 0.5 + 0.4 * iou, 2)
    assert result.slope == pytest.approx(0.4) and result.intercept == pytest.approx(0.5)
    assert result.count.tolist() == [2, 1]
    told = result.to_json()
    assert told["mean"] == [0.56, 0.74] and told["edges"] == [0, 0.5, 1]
    with pytest.raises(UserError, match="more --images"):
        summarise(torch.full((1, 2), torch.nan), torch.full((1, 2), torch.nan), 2)


def test_two_checkpoints_share_one_picture():
    results = {"a": sensitivity(places, samples(3)), "b": sensitivity(places, samples(2))}
    axis = draw(results, "title").axes[0]
    assert [line.get_label()[:1] for line in axis.lines] == ["a", "b"]


def test_a_missing_level_is_named():
    with pytest.raises(UserError, match="no feature map 'res3'; there are res4, res5"):
        sensitivity(places, samples(1), level="res3")
