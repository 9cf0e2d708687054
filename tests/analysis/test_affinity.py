"""Cells that know their place choose themselves, in mirrored views too."""

import pytest
import torch

from d2_unsupdet.analysis.affinity import affinity, affinity_matrix, cell_distances, draw
from tests.analysis.coordinates import coordinate_views, places


def fine(images):
    return places(images, stride=4, span=2)


def test_identity_for_features_of_places():
    pairs = coordinate_views(6, whole_box=True)
    assert any(views.flipped[0] != views.flipped[1] for views in pairs)
    result = affinity(fine, pairs, size=7, tau=1e-5)
    assert result.diagonal.min() > 0.99 and result.distance.max() < 0.05
    torch.testing.assert_close(result.matrices.sum(1), torch.ones(6, 49))


def test_chance_for_features_without_place():
    result = affinity(
        lambda x: {"res5": torch.ones(2, 3, 8, 8)}, coordinate_views(2, whole_box=True), size=14
    )
    assert result.diagonal.tolist() == pytest.approx([1 / 196] * 2)
    assert result.distance[0] == pytest.approx(cell_distances(14).mean().item(), rel=1e-4)


def test_the_softmax_runs_over_the_first_view():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 4, generator=generator)
    found = affinity_matrix(a, b, tau=0.5)
    for j in range(4):
        cosines = torch.tensor([torch.cosine_similarity(a[:, i], b[:, j], 0) for i in range(4)])
        torch.testing.assert_close(found[:, j], (cosines / 0.5).exp() / (cosines / 0.5).exp().sum())


def test_distances_of_cells():
    far = cell_distances(3)
    assert far[0, 8] == pytest.approx(8**0.5) and far[0, 1] == far[0, 3] == 1 and far[4, 4] == 0


def test_numbers_and_two_checkpoints_in_one_picture():
    pairs = coordinate_views(3, whole_box=True)
    sharp, chance = affinity(fine, pairs, size=7, tau=1e-5), affinity(fine, pairs, size=7, tau=1e5)
    told = sharp.to_json()
    assert told["diagonal_mass"]["mean"] > 0.99 and len(told["pairs"]) == 3
    figure = draw({"sharp": sharp, "chance": chance}, pairs[:2], "title")
    assert sum(len(axis.images) for axis in figure.axes) == 2 * 4
