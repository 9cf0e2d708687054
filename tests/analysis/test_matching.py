"""Patches that know their place find it: no error where centres fall on centres."""

import numpy as np
import pytest
import torch

from d2_unsupdet.analysis.matching import best_patches, draw, matching, true_places
from d2_unsupdet.analysis.samples import Views
from d2_unsupdet.data.views import Crop
from d2_unsupdet.errors import UserError
from tests.analysis.coordinates import coordinate_views, places


@pytest.mark.parametrize("geometry", ["none", "flip"])
def test_no_error_where_centres_fall_on_centres(geometry):
    pairs = coordinate_views(6, geometry=geometry)
    if geometry == "flip":
        assert any(views.flipped[0] != views.flipped[1] for views in pairs)
    result = matching(places, pairs)
    assert result.error.max() == pytest.approx(0, abs=1e-9) and len(result.error) == 6 * 16 * 16
    told = result.to_json()
    assert told["mean_error"] == 0 and told["within_one_cell"] == 1


def test_crops_leave_the_least_possible_error():
    result = matching(places, coordinate_views(8))
    told = result.to_json()
    assert 0.2 < told["least_possible_error"] < 0.71  # half a cell's diagonal
    assert told["mean_error"] < told["least_possible_error"] + 0.05
    assert told["within_one_cell"] > 0.98
    assert told["patches"] < 8 * 256  # what view 2 does not show does not count


def test_mirrored_features_are_wrong():
    def blind(images):  # the second view's map is mirrored
        feature = places(images)["res4"]
        return {"res4": torch.stack([feature[0], feature[1].flip(-1)])}

    told = matching(blind, coordinate_views(2, geometry="none")).to_json()
    assert told["mean_error"] == pytest.approx(8, abs=0.01)  # of 16 cells a side
    assert told["within_one_cell"] == pytest.approx(2 / 16)


def test_places_by_hand():
    first = Crop(100, 100, 0, 0, 40, 40, 32)
    second = Crop(100, 100, 20, 10, 60, 50, 32, flipped=True)
    views = Views(torch.zeros(2, 3, 32, 32), (first, second), "it")
    # cell 3 of 4 x 4: x = 35, y = 5 in the image; 15 of 40 from view 2's left, so 25 mirrored
    np.testing.assert_allclose(true_places(views, 4)[3], [2.5, -0.5])


def test_argmax_equals_a_loop():
    a, b = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    found = best_patches(a, b)
    for i in range(9):
        left = a.flatten(1)[:, i]
        values = [torch.cosine_similarity(left, b.flatten(1)[:, j], 0) for j in range(9)]
        assert int(found[i]) == int(torch.stack(values).argmax())


def test_views_that_share_nothing():
    crops = Crop(100, 100, 0, 0, 40, 40, 32), Crop(100, 100, 60, 60, 100, 100, 32)
    views = Views(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), crops, "it")
    with pytest.raises(UserError, match="visible in both"):
        matching(places, [views])


def test_two_checkpoints_and_few_lines():
    pairs = coordinate_views(3)
    result = matching(places, pairs)
    figure = draw({"a": result, "b": result}, pairs, "title", shown=(0, 2), lines=10)
    assert len(figure.axes) == 4
    assert all(len(axis.lines) == 3 * 10 for axis in figure.axes)
