"""Pairs with regions through real files: the same content in views, crops and image."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from d2_unsupdet.data.images import NoBoxes
from d2_unsupdet.data.photometric import Operation, Photometric
from d2_unsupdet.data.siamese_boxes import SharedBoxes
from d2_unsupdet.data.siamese_mapper import SiamesePairMapper
from d2_unsupdet.data.siamese_views import OverlappingViews
from d2_unsupdet.seeding import seeded
from tests.data.test_prior_mapper import Given

PLAIN = Photometric(jitter=0, grayscale=0, blur=0)
WIDTH, HEIGHT = 240, 180
CELLS = np.array([[x, y, x + 60, y + 60] for y in range(0, 180, 30) for x in range(0, 240, 30)])


@pytest.fixture
def ramp(tmp_path):
    """Red counts columns, green rows; both slopes are small enough for uint8."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    path = tmp_path / "ramp.png"
    Image.fromarray(np.stack([x, y, 0 * x + 9], axis=-1).astype(np.uint8)).save(path)
    return str(path)


def mapper(boxes=CELLS, **options):
    source = Given(boxes) if boxes is not None else None
    given = {"short_edges": (120, 150), "max_size": 220, "crop_size": 16, "photometric": PLAIN}
    return SiamesePairMapper(source=source, **{**given, **options})


def draw(made, path, index=0, epoch=0):
    record = {"file_name": path, "image_id": 3, "index": index, "epoch": epoch, "width": WIDTH}
    with seeded(0, epoch, index):
        return made(record)


def test_the_sample_follows_the_contract(ramp):
    sample = draw(mapper(), ramp)
    _, _, h, w = sample["views"].shape
    assert sample["views"].shape[:2] == (2, 3) and sample["views"].dtype == torch.uint8
    assert sample["views"].is_contiguous()
    assert sample["priors"].shape == (2, 10, 4) and sample["priors"].dtype == torch.float32
    assert sample["crops"].shape == (2, 10, 3, 16, 16) and sample["crops"].dtype == torch.uint8
    assert torch.equal(sample["overlap"], sample["priors"][:, 0])
    assert sample["flipped"].shape == (2,) and sample["rectangles"].shape == (2, 4)
    kept = {"file_name": ramp, "image_id": 3, "index": 0, "epoch": 0}
    assert {key: sample[key] for key in kept} == kept and "width" not in sample
    for boxes in sample["priors"]:
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes[:, 2:] <= torch.tensor([w, h])).all()


def place(view, x, y):
    """Column and row of the image that a place of a view shows."""
    pixels = view.permute(1, 2, 0).numpy().astype(np.float32)
    at = [np.array([[v - 0.5]], np.float32) for v in (x, y)]
    return cv2.remap(pixels, *at, cv2.INTER_LINEAR)[0, 0, :2] + 0.5


def test_both_views_show_the_same_part_of_the_image_in_a_box(ramp):
    mirrored, errors = 0, []
    for index in range(30):
        sample = draw(mapper(), ramp, index)
        both = bool(sample["flipped"][0])
        assert sample["flipped"].tolist() == [both, both]
        mirrored += both
        for a, b in zip(*sample["priors"].tolist(), strict=True):
            for u, v in ((0.5, 0.5), (0.2, 0.3), (0.7, 0.8)):
                found = [
                    place(view, box[0] + u * (box[2] - box[0]), box[1] + v * (box[3] - box[1]))
                    for view, box in zip(sample["views"], (a, b), strict=True)
                ]
                errors.append(np.abs(found[0] - found[1]).max())
    assert max(errors) < 1.5 and np.mean(errors) < 0.6  # a grey level is a pixel of the image
    assert 5 < mirrored < 25


def test_rectangles_say_where_the_views_lie_in_the_file(ramp):
    for index in range(20):
        sample = draw(mapper(), ramp, index)
        for v in range(2):
            left, top, right, bottom = sample["rectangles"][v].tolist()
            shown = sample["views"][v].flip(2) if sample["flipped"][v] else sample["views"][v]
            _, h, w = shown.shape
            middle = place(shown, w / 2, h / 2)
            assert np.allclose(middle, [(left + right) / 2, (top + bottom) / 2], atol=1.5)
            corner = place(shown, 8, 8)
            expected = [left + 8 * (right - left) / w, top + 8 * (bottom - top) / h]
            assert np.allclose(corner, expected, atol=1.5)


def test_crops_show_their_view_s_boxes(ramp):
    sample = draw(mapper(), ramp, 4)
    for view, boxes, crops in zip(sample["views"], sample["priors"], sample["crops"], strict=True):
        for (x0, y0, x1, y1), crop in zip(boxes.tolist(), crops, strict=True):
            middle = place(view, (x0 + x1) / 2, (y0 + y1) / 2)
            assert np.allclose(place(crop, 8, 8), middle, atol=2)


COLUMNS, ROWS = ((10, 90), (65, 75), (130, 70)), ((5, 60), (80, 90))  # start, length
LOPSIDED = np.array([[x, y, x + w, y + h] for x, w in COLUMNS for y, h in ROWS])  # if mirrored


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("boxes", [CELLS, LOPSIDED], ids=["grid", "lopsided"])
def test_regions_are_the_source_s_in_the_image(ramp, boxes, flip):
    """Back in the file's pixels, the first boxes are the source's, cut to the shared part."""
    sample = draw(mapper(boxes, flip=flip), ramp, 1)
    assert sample["flipped"].all() == bool(flip)
    view, box = sample["rectangles"][0], sample["priors"][0]
    h, w = sample["views"].shape[2:]
    sides = (view[2:] - view[:2]).repeat(2)
    if sample["flipped"][0]:
        box = torch.stack([w - box[:, 2], box[:, 1], w - box[:, 0], box[:, 3]], 1)
    image = (box / torch.tensor([w, h, w, h]) * sides + view[:2].repeat(2)).numpy()
    shared = image[0]
    cut = boxes.clip(np.tile(shared[:2], 2), np.tile(shared[2:], 2))
    areas = (cut[:, 2:] - cut[:, :2]).prod(1)
    expected = cut[areas >= 0.05 * (shared[2:] - shared[:2]).prod()][:9]
    assert len(expected) > 2
    assert np.allclose(image[1 : 1 + len(expected)], expected, atol=2)


def test_colours_are_each_view_s_and_each_crop_s_own(ramp):
    wild = Photometric(jitter=1, grayscale=0, blur=0)
    plain, changed = (draw(mapper(photometric=p), ramp, 2) for p in (PLAIN, wild))
    assert torch.equal(plain["priors"], changed["priors"])
    shades = {round(float(crop[2].float().mean()), 2) for crop in changed["crops"].flatten(0, 1)}
    assert len(shades) > 12  # the third channel is constant in the file
    assert changed["views"][0, 2].float().mean() != changed["views"][1, 2].float().mean()


class Darker(Photometric):
    """Each draw is darker than the one before, and by nothing else."""

    def __init__(self):
        super().__init__()
        self.draws = 0

    def draw(self, rng):
        self.draws += 1
        return [Operation("brightness", 1 - self.draws / 40)]


def test_views_and_crops_are_changed_once_and_by_no_other_s_draw(tmp_path):
    """A crop shows the view as it was, not with the view's colours under its own."""
    path = tmp_path / "even.png"
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 200, np.uint8)).save(path)
    sample = draw(mapper(photometric=Darker()), str(path))
    values = [sample["views"].flatten(1), sample["crops"].flatten(0, 1).flatten(1)]
    assert all((v == v[:, :1]).all() for v in values)
    found = sorted(torch.cat([v[:, 0] for v in values]).tolist())
    assert found == sorted(200 - 5 * (1 + np.arange(22)))


def test_without_a_source_the_boxes_are_random(ramp):
    first, second = (draw(mapper(None), ramp, index) for index in (0, 1))
    assert first["priors"].shape == (2, 10, 4)
    assert not torch.equal(first["priors"], second["priors"])


def test_an_image_without_boxes_in_the_shared_part_is_bad(ramp):
    for boxes in (np.zeros((0, 4)), [[0, 0, 3, 3]]):
        with pytest.raises(NoBoxes, match="no box in the part that both views show"):
            draw(mapper(boxes), ramp)


def test_a_sample_is_a_function_of_epoch_and_index_and_views_ignore_the_source(ramp):
    made = mapper(photometric=None)
    first = draw(made, ramp, 1)
    np.random.rand(7)
    again, other = draw(made, ramp, 1), draw(made, ramp, 1, epoch=1)
    for key in ("views", "priors", "crops"):
        assert torch.equal(first[key], again[key])
    assert not torch.equal(first["priors"], other["priors"])
    fewer = draw(mapper(CELLS[8:], photometric=None), ramp, 1)
    assert torch.equal(fewer["rectangles"], first["rectangles"])


def test_counts_and_overlaps_are_settings(ramp):
    made = SiamesePairMapper(
        source=Given(CELLS),
        short_edges=(120,),
        max_size=220,
        flip=1.0,
        views=OverlappingViews(iou=0.3, shrink=False),
        boxes=SharedBoxes(count=5),
        crop_size=8,
        photometric=PLAIN,
    )
    sample = draw(made, ramp)
    assert sample["priors"].shape == (2, 5, 4) and sample["flipped"].all()
    a, b = (r[2:] - r[:2] for r in sample["rectangles"])
    left = torch.max(*sample["rectangles"][:, :2])
    shared = (torch.min(*sample["rectangles"][:, 2:]) - left).prod()
    assert shared / (a.prod() + b.prod() - shared) == pytest.approx(0.3, abs=0.02)
