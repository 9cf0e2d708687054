"""Features read in the shared part of two views agree, whatever is cropped, resized or mirrored."""

import numpy as np
import pytest
import torch

from d2_unsupdet.data.views import Crop, CropPair, RandomCrop
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.overlap import (
    aligned_patches,
    grid_points,
    sample_points,
    to_view,
    view_geometry,
)

SIDE, STRIDE = 64, 4


def coordinate_map(crop: Crop) -> torch.Tensor:
    """What an ideal network would see: at each cell of the view, where it lies in the image."""
    centres = (np.arange(SIDE // STRIDE) + 0.5) * STRIDE
    x, y = np.meshgrid(centres, centres)
    points = crop.inverse().apply_coords(np.stack([x, y], -1).reshape(-1, 2))
    return torch.from_numpy(points.T.reshape(2, *x.shape))


def sample_of(pair: CropPair) -> dict:
    crops = pair.first, pair.second
    return {
        "views": torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8),
        "overlap": torch.from_numpy(pair.overlap),
        "flipped": torch.tensor([crop.flipped for crop in crops]),
        "rectangles": torch.tensor([crop.rectangle for crop in crops]).float(),
        "valid": pair.valid,
    }


@pytest.fixture(scope="module")
def pairs() -> list[CropPair]:
    law, rng = RandomCrop(size=SIDE, scale=(0.2, 0.6)), np.random.default_rng(0)
    found = [law.draw_pair(rng, 200, 150, min_side=24, tries=100) for _ in range(24)]
    assert all(pair.valid for pair in found)
    flips = {(pair.first.flipped, pair.second.flipped) for pair in found}
    assert len(flips) == 4  # every combination is there
    return found


def maps(pairs: list[CropPair], view: int) -> torch.Tensor:
    return torch.stack([coordinate_map((p.first, p.second)[view]) for p in pairs])


def test_patches_of_both_views_are_the_same_places(pairs):
    geometry = view_geometry([sample_of(p) for p in pairs], torch.device("cpu"))
    first, second = (
        aligned_patches(maps(pairs, v), g.boxes.double(), g.flipped, size=5, side=SIDE)
        for v, g in enumerate(geometry)
    )
    # Cells at the border of a view are clamped by RoIAlign: compare what lies inside both.
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert (first - second)[inside].abs().max() < 0.5 * 200 / SIDE
    assert (first.diff(dim=-1)[:, 0] > 0).all()  # left is left after mirroring back


def test_points_of_both_views_are_the_same_places(pairs):
    geometry = view_geometry([sample_of(p) for p in pairs], torch.device("cpu"))
    points = grid_points(7, device=torch.device("cpu")).expand(len(pairs), -1, -1)
    assert points[0, 0].tolist() == pytest.approx([1 / 14, 1 / 14])
    first, second = (
        sample_points(maps(pairs, v), to_view(points, g), side=SIDE) for v, g in enumerate(geometry)
    )
    expected = [_image_points(p, points[0]) for p in pairs]
    # A point nearer to the view's edge than half a cell takes the border's value.
    assert (first - second).abs().median() < 1e-4
    torch.testing.assert_close(to_view(points, geometry[0])[0], _view_points(pairs[0], points[0]))
    assert (first - torch.stack(expected)).abs().median() < 1e-3


def _image_points(pair: CropPair, unit: torch.Tensor) -> torch.Tensor:
    a, b = pair.first, pair.second
    left, top = max(a.left, b.left), max(a.top, b.top)
    width, height = min(a.right, b.right) - left, min(a.bottom, b.bottom) - top
    return unit.double() * torch.tensor([width, height]) + torch.tensor([left, top])


def _view_points(pair: CropPair, unit: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(pair.first.apply_coords(_image_points(pair, unit).numpy())).float()


def test_aligned_patches_commute_with_mirroring():
    torch.manual_seed(0)
    feature = torch.randn(50, 3, 14, 14, dtype=torch.float64)
    corner = torch.rand(50, 2, dtype=torch.float64) * 100
    boxes = torch.cat([corner, corner + 20 + torch.rand(50, 2).double() * 100], dim=1)
    mirrored = boxes.clone()
    mirrored[:, 0], mirrored[:, 2] = 224 - boxes[:, 2], 224 - boxes[:, 0]
    none, all_ = torch.zeros(50, dtype=torch.bool), torch.ones(50, dtype=torch.bool)
    plain = aligned_patches(feature, boxes, none, size=7, side=224)
    other = aligned_patches(feature.flip(-1), mirrored, all_, size=7, side=224)
    torch.testing.assert_close(plain, other, rtol=0, atol=1e-12)


def test_boxes_and_images_are_exact_under_bf16():
    """bf16 has eight bits: a box edge of 130.6 would be 131, and image 257 would be image 256."""
    rows = torch.arange(300.0).view(-1, 1, 1, 1).expand(-1, 1, 14, 14)
    ramp = (torch.arange(14.0) + 0.5).expand(300, 1, 14, 14)
    feature = torch.cat([rows, ramp], dim=1)
    boxes = torch.tensor([[33.3, 10.0, 130.6, 200.0]]).expand(300, -1)
    flipped = torch.zeros(300, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        patches = aligned_patches(feature, boxes, flipped, size=2, side=224)
    assert torch.equal(patches[:, 0].amax(dim=(1, 2)), torch.arange(300.0))
    expected = (33.3 + 97.3 * torch.tensor([0.25, 0.75])) / 16
    torch.testing.assert_close(patches[0, 1, 0], expected, atol=1e-4, rtol=0)


def test_features_in_bf16_are_read_at_exact_places():
    ramp = (torch.arange(14.0) + 0.5).expand(1, 1, 14, 14)
    boxes, flipped = torch.tensor([[33.3, 10.0, 130.6, 200.0]]), torch.zeros(1, dtype=torch.bool)
    exact = aligned_patches(ramp, boxes, flipped, size=4, side=224)
    half = aligned_patches(ramp.bfloat16(), boxes, flipped, size=4, side=224)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=1e-5, rtol=0)  # the ramp itself is exact in bf16


def test_a_pair_without_overlap_reads_the_whole_view():
    sample = sample_of(
        CropPair.of(
            Crop(200, 150, 0, 0, 50, 50, SIDE), Crop(200, 150, 100, 0, 150, 50, SIDE), min_side=1
        )
    )
    for view in view_geometry([sample], torch.device("cpu")):
        assert view.boxes.tolist() == [[0, 0, SIDE, SIDE]] and not view.valid.any()


@pytest.mark.parametrize("name", ["flipped", "valid", "rectangles"])
def test_each_missing_part_is_a_sentence(name, pairs):
    sample = sample_of(pairs[0])
    del sample[name]
    with pytest.raises(UserError, match=f"has no '{name}'"):
        view_geometry([sample], torch.device("cpu"))


def test_missing_geometry_is_a_sentence():
    with pytest.raises(UserError, match="'7' has no 'overlap'.*paired-view mapper"):
        view_geometry([{"image_id": 7, "views": torch.zeros(2, 3, 8, 8)}], torch.device("cpu"))
