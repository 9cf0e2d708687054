"""Categories that follow the image agree between its views."""

import pytest
import torch
import torch.nn.functional as F

from d2_unsupdet.analysis.categories import categories, draw, shared_cells
from d2_unsupdet.errors import UserError
from tests.analysis.coordinates import coordinate_views


class Quadrants:
    """Category 0 to 3 by the quarter of the image a cell shows."""

    def categories(self, images):
        places = F.avg_pool2d(images.float(), 16) > 127
        return places[:, 0].long() + 2 * places[:, 1].long()


class Columns:
    """Category by the place in the view, whatever it shows."""

    def categories(self, images):
        side = images.shape[-1] // 16
        return torch.arange(side).expand(len(images), side, side)


def test_what_follows_the_image_agrees():
    result = categories(Quadrants(), coordinate_views(6))
    assert result.agreement > 0.93 and result.expected < 0.5  # but for cells on the borders
    assert sorted(result.used.tolist()) == [0, 1, 2, 3]
    assert result.to_json()["categories_used"] == 4
    assert categories(Quadrants(), coordinate_views(4, geometry="flip")).agreement == 1


def test_what_follows_the_view_does_not():
    result = categories(Columns(), coordinate_views(6))
    assert result.agreement < 0.2 and len(result.used) == 16


def test_a_single_category_agrees_by_chance():
    class One:
        def categories(self, images):
            return torch.full((2, 4, 4), 5)

    result = categories(One(), coordinate_views(2))
    assert result.agreement == result.expected == 1 and result.used.tolist() == [5]


def test_cells_of_mirrored_views():
    views = next(v for v in coordinate_views(9, geometry="flip") if v.flipped[0] != v.flipped[1])
    maps = torch.arange(8).view(2, 2, 2)
    a, b = shared_cells(maps, views)
    assert a.tolist() == [0, 1, 2, 3] and b.tolist() == [5, 4, 7, 6]


def test_other_methods_are_refused():
    with pytest.raises(UserError, match="Linear has no pseudo-categories"):
        categories(torch.nn.Linear(1, 1), coordinate_views(1))


def test_two_checkpoints_in_one_picture():
    pairs = coordinate_views(3)
    results = {"a": categories(Quadrants(), pairs), "b": categories(Columns(), pairs)}
    figure = draw(results, pairs, "title", shown=range(2))
    assert sum(len(axis.images) for axis in figure.axes) == 2 * (2 + 4)
