"""The geometry of two crops, shown on images whose pixels say where they come from."""

import itertools
import math

import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import ROIAlign
from torchvision.transforms import RandomResizedCrop

from d2_unsupdet.data.views import Crop, CropPair, RandomCrop, overlap

FLIPS = list(itertools.product([False, True], repeat=2))


def coordinates(width: int, height: int) -> np.ndarray:
    """Float image: channels 0 and 1 hold the x and y of each pixel's centre."""
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    return np.stack([x, y, np.zeros_like(x)], axis=-1)


def random_crops(count: int, width: int, height: int, **law: object) -> list[Crop]:
    rng = np.random.default_rng(0)
    return [RandomCrop(**law).draw(rng, width, height) for _ in range(count)]


def sample(view: np.ndarray, box: np.ndarray, grid: int = 6) -> np.ndarray:
    """Values on a regular grid of points inside a box, by bilinear interpolation."""
    steps = (np.arange(grid) + 0.5) / grid
    x = box[0] + steps * (box[2] - box[0]) - 0.5
    y = box[1] + steps * (box[3] - box[1]) - 0.5
    maps = [m.astype(np.float32) for m in np.meshgrid(x, y)]
    return cv2.remap(view, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("width, height", [(500, 375), (150, 640), (2000, 1500)])
def test_both_overlaps_show_the_same_patch(width, height, flips):
    image = coordinates(width, height)
    rng = np.random.default_rng(width)
    checked = 0
    for _ in range(15):
        pair = RandomCrop(size=112).draw_pair(rng, width, height)
        if not pair.valid:
            continue
        crops = [
            Crop(**{**vars(c), "flipped": f})
            for c, f in zip((pair.first, pair.second), flips, strict=True)
        ]
        patches = []
        for crop, box in zip(crops, overlap(*crops), strict=True):
            patch = sample(crop.apply_image(image), box)
            patches.append(patch[:, ::-1] if crop.flipped else patch)
        difference = np.abs(patches[0] - patches[1])[..., :2].max(axis=(0, 1))
        image_pixels = np.min([(c.width / c.size, c.height / c.size) for c in crops], axis=0)
        assert (difference / image_pixels).max() < 0.5  # pixels of the finer view
        checked += 1
    assert checked > 10


def test_overlap_of_known_crops():
    first = Crop(100, 100, 0, 0, 60, 60, 120, False)  # two view pixels for one of the image
    second = Crop(100, 100, 20, 40, 100, 80, 80, True)  # 1 and 2
    expected = [[40, 80, 120, 120], [80 - 40, 0, 80 - 0, 40]]
    assert overlap(first, second).tolist() == expected
    assert overlap(second, first).tolist() == expected[::-1]
    assert overlap(first, first)[0].tolist() == [0, 0, 120, 120]


def test_the_overlap_is_the_intersection_mapped_like_any_box():
    crops = random_crops(60, 500, 375)
    for first, second in zip(crops[::2], crops[1::2], strict=True):
        corners = [
            max(first.left, second.left),
            max(first.top, second.top),
            min(first.right, second.right),
            min(first.bottom, second.bottom),
        ]
        if corners[0] < corners[2] and corners[1] < corners[3]:
            expected = [crop.apply_box([corners])[0] for crop in (first, second)]
            assert np.allclose(overlap(first, second), expected, atol=1e-4)


@pytest.mark.parametrize("left, top", [(60, 0), (0, 60), (60, 60), (70, 10)])
def test_crops_that_only_touch_do_not_overlap(left, top):
    first = Crop(200, 200, 0, 0, 60, 60, 32)
    second = Crop(200, 200, left, top, left + 50, top + 50, 32)
    pair = CropPair.of(first, second, min_side=0)
    assert not pair.valid
    assert (pair.overlap == 0).all() and pair.overlap.shape == (2, 4)


def test_the_least_side_holds_in_both_views():
    first = Crop(400, 400, 0, 0, 100, 100, 100)
    second = Crop(400, 400, 80, 0, 280, 200, 100)  # 20 px of the first, 10 of the second
    assert CropPair.of(first, second, min_side=10).valid
    assert not CropPair.of(first, second, min_side=10.1).valid
    assert (CropPair.of(first, second, min_side=10.1).overlap == 0).all()


def test_small_overlaps_are_drawn_again():
    small = RandomCrop(size=224, scale=(0.02, 0.1))
    shares = []
    for tries in (1, 3, 30):
        rng = np.random.default_rng(0)
        pairs = [small.draw_pair(rng, 500, 375, tries=tries) for _ in range(300)]
        shares.append(np.mean([pair.valid for pair in pairs]))
        for pair in pairs:
            sides = pair.overlap[:, 2:] - pair.overlap[:, :2]
            assert sides.min() >= 16 if pair.valid else (pair.overlap == 0).all()
    assert shares[0] < 0.4 < 0.5 < shares[1] < 0.9 < shares[2]


def test_empty_overlaps_are_rare_with_the_recipe():
    rng = np.random.default_rng(0)
    pairs = [RandomCrop().draw_pair(rng, 500, 375, min_side=0, tries=1) for _ in range(5000)]
    assert 0.001 < np.mean([not pair.valid for pair in pairs]) < 0.009  # 0.39 % expected
    assert all(RandomCrop().draw_pair(rng, 500, 375).valid for _ in range(1000))


def test_crops_follow_the_law():
    torch.manual_seed(0)
    crops, plain = random_crops(4000, 640, 480), torch.empty(3, 480, 640)
    areas = np.array([c.width * c.height for c in crops]) / (640 * 480)
    ratios = np.array([c.width / c.height for c in crops])
    assert 0.199 < areas.min() < 0.21 and areas.max() > 0.97
    assert 0.74 < ratios.min() < 0.76 and 1.32 < ratios.max() < 1.345
    params = [RandomResizedCrop.get_params(plain, [0.2, 1], [3 / 4, 4 / 3]) for _ in range(4000)]
    theirs = np.array(params)  # top, left, height, width
    ours = np.array([(c.top, c.left, c.height, c.width) for c in crops])
    assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < 6  # standard error 2
    assert np.abs(ours.std(axis=0) - theirs.std(axis=0)).max() < 5
    assert np.mean([c.flipped for c in crops]) == pytest.approx(0.5, abs=0.03)
    for c in crops:
        assert 0 <= c.left < c.right <= 640 and 0 <= c.top < c.bottom <= 480
    assert min(c.left for c in crops) == 0 and max(c.right for c in crops) == 640


@pytest.mark.parametrize(
    "width, height, expected",
    [
        (20000, 10, (9993, 0, 10006, 10)),
        (10, 20000, (0, 9993, 10, 10006)),
        (1, 1, (0, 0, 1, 1)),
        (9, 1, (4, 0, 5, 1)),
    ],
)
def test_extreme_shapes_give_the_largest_centred_crop(width, height, expected):
    for crop in random_crops(5, width, height, size=32, scale=(0.5, 1)):
        assert (crop.left, crop.top, crop.right, crop.bottom) == expected
        image = np.full((height, width, 3), 9, np.uint8)
        assert (crop.apply_image(image) == 9).all()
    assert RandomCrop().draw_pair(np.random.default_rng(0), width, height).valid


def test_boxes_go_into_the_view_and_back():
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.uniform(0, 300, (20, 2, 2)), axis=1).reshape(-1, 4)
    for crop in random_crops(20, 500, 375):
        inside = crop.apply_box(boxes)
        assert (inside[:, 2:] >= inside[:, :2]).all()
        assert np.allclose(crop.inverse().apply_box(inside), boxes)
        assert crop.inverse().inverse() == crop
    whole_numbers = np.array([[10, 20, 30, 40]])
    crop = Crop(100, 100, 0, 0, 64, 64, 48)
    assert crop.apply_box(whole_numbers).tolist() == [[7.5, 15, 22.5, 30]]
    assert crop.inverse().apply_box(crop.apply_box(whole_numbers)).tolist() == [[10, 20, 30, 40]]


def test_a_view_goes_back_to_its_place_in_the_image():
    image = coordinates(120, 90)
    for flipped in (False, True):
        crop = Crop(120, 90, 30, 10, 90, 70, 120, flipped)
        back = crop.inverse().apply_image(crop.apply_image(image))
        assert np.abs(back[12:68, 32:88] - image[12:68, 32:88]).max() < 0.3
        outside = np.ones((90, 120), bool)
        outside[10:70, 30:90] = False
        assert (back[outside] == 0).all()


def test_label_maps_are_not_interpolated():
    labels = np.random.default_rng(0).choice([3, 200], (90, 120)).astype(np.uint8)
    for crop in random_crops(5, 120, 90, size=61):
        assert set(np.unique(crop.apply_segmentation(labels))) == {3, 200}


def test_strong_shrinking_is_smoothed():
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[:, ::3] = 255
    view = Crop(900, 900, 0, 0, 900, 900, 100).apply_image(stripes)
    assert np.abs(view[1:-1, 1:-1].astype(float) - 85).max() < 2


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("origin", [(0, 0), (-5, 0), (-1, -7), (0, -3)])
def test_snapped_crops_lie_on_whole_pixels_of_a_reduced_image(shrink, origin):
    origin = tuple(-(-o % shrink) for o in origin)
    for crop in random_crops(50, 1203, 901):
        snapped = crop.snapped(shrink, origin)
        assert crop.left <= snapped.left < crop.left + shrink
        assert crop.right - shrink < snapped.right <= crop.right
        assert crop.top <= snapped.top < crop.top + shrink
        assert crop.bottom - shrink < snapped.bottom <= crop.bottom
        small = snapped.shrunk(shrink, origin)
        assert small.left * shrink + origin[0] == snapped.left
        assert small.bottom * shrink + origin[1] == snapped.bottom
        assert 0 <= small.left < small.right <= small.image_width
        assert small.image_width == math.ceil((1203 - origin[0]) / shrink)


def test_roi_align_commutes_with_mirroring():
    """With aligned=True, mirrored box and map give the mirrored output; else half a pixel off."""
    torch.manual_seed(0)
    features = torch.randn(1, 4, 14, 14, dtype=torch.float64)
    corners = torch.rand(50, 2, 2, dtype=torch.float64).sort(dim=1).values * 224
    boxes = corners.reshape(-1, 4)
    mirrored = torch.stack([224 - boxes[:, 2], boxes[:, 1], 224 - boxes[:, 0], boxes[:, 3]], 1)
    batch = boxes.new_zeros(50, 1)
    differences = {}
    for aligned in (True, False):
        align = ROIAlign((7, 7), 1 / 16, sampling_ratio=0, aligned=aligned)
        plain = align(features, torch.cat([batch, boxes], 1))
        other = align(features.flip(-1), torch.cat([batch, mirrored], 1)).flip(-1)
        differences[aligned] = (plain - other).abs().max().item()
    assert differences[True] < 1e-10 < 1e-2 < differences[False]
