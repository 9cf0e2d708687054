"""Samples as the trainers get them: contract, geometry through real files, bad input."""

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from PIL import Image
from pycocotools import mask as coco_mask

from d2_unsupdet.data.images import BadImage, ImageFile
from d2_unsupdet.data.mappers import DetectionMapper, PairedViewMapper
from d2_unsupdet.data.photometric import Photometric
from d2_unsupdet.data.views import RandomCrop
from d2_unsupdet.errors import UserError
from d2_unsupdet.seeding import seeded

PLAIN = Photometric(jitter=0, grayscale=0, blur=0)


def ramp(path, width, height, *, step=1, **options):
    """An image of its own coordinates: red counts columns and green rows, each in `step` pixels.

    Blue repeats with a period of 32 steps: an independent witness of the absolute place.
    """
    y, x = np.mgrid[:height, :width]
    wave = 127 + 60 * np.sin((x + 0.5) / step / 32 * 2 * np.pi)
    Image.fromarray(np.stack([x / step, y / step, wave], axis=-1).round().astype(np.uint8)).save(
        path, **options
    )
    return str(path)


def record(path, index=0, epoch=0, **more):
    return {"file_name": str(path), "image_id": 7, "index": index, "epoch": epoch, **more}


def draw(mapper, rec, seed=0):
    with seeded(seed, rec["epoch"], rec["index"]):
        return mapper(rec)


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)).save(path)
    return str(path)


def test_the_sample_follows_the_contract(photo):
    sample = draw(PairedViewMapper(size=64), record(photo, annotations=[], height=240, width=320))
    assert sample["views"].shape == (2, 3, 64, 64) and sample["views"].dtype == torch.uint8
    assert sample["views"].is_contiguous()
    assert sample["overlap"].shape == (2, 4) and sample["overlap"].dtype == torch.float32
    assert sample["flipped"].shape == (2,) and sample["flipped"].dtype == torch.bool
    assert sample["valid"] is True
    assert {k: sample[k] for k in ("file_name", "image_id", "index", "epoch")} == {
        "file_name": photo, "image_id": 7, "index": 0, "epoch": 0,
    }  # fmt: skip
    assert "annotations" not in sample


def test_a_sample_is_a_function_of_seed_epoch_and_index(photo):
    mapper = PairedViewMapper(size=48)
    places = list(itertools.product((0, 1), (0, 1), (3, 4)))  # seed, epoch, index

    def sample(place):
        seed, epoch, index = place
        return draw(mapper, record(photo, index, epoch), seed)["views"]

    first = {place: sample(place) for place in places}
    np.random.rand(5)  # neither order nor other draws matter
    for place in reversed(places):
        assert torch.equal(sample(place), first[place])
    for a, b in itertools.combinations(places, 2):
        assert not torch.equal(first[a], first[b])


def test_a_second_try_changes_only_the_second_crop(photo):
    strict = PairedViewMapper(size=48, scale=(0.05, 0.1), tries=300)
    loose = PairedViewMapper(size=48, scale=(0.05, 0.1), min_overlap_side=0, tries=1)
    changed = 0
    for index in range(20):
        a, b = draw(strict, record(photo, index)), draw(loose, record(photo, index))
        assert torch.equal(a["views"][0], b["views"][0])
        changed += not torch.equal(a["views"][1], b["views"][1])
        assert a["valid"]
    assert changed > 5


def test_a_pair_without_overlap_is_not_valid(photo):
    mapper = PairedViewMapper(size=32, scale=(0.001, 0.002), tries=1)
    samples = [draw(mapper, record(photo, index)) for index in range(20)]
    invalid = [sample for sample in samples if not sample["valid"]]
    assert len(invalid) > 10
    assert all((sample["overlap"] == 0).all() for sample in invalid)


def patch_places(view, box, flipped, step, grid=5):
    """Where (in the full image) the points of a regular grid in the overlap come from."""
    inner = (np.arange(grid) + 1) / (grid + 1)  # away from the border, where JPEG blocks are cut
    x = box[0] + inner * (box[2] - box[0]) - 0.5
    y = box[1] + inner * (box[3] - box[1]) - 0.5
    maps = [m.astype(np.float32) for m in np.meshgrid(x, y)]
    pixels = view.permute(1, 2, 0).numpy().astype(np.float32)
    pixels = cv2.blur(pixels, (9, 9))  # over the steps: the ramp is linear, its place stays
    places = cv2.remap(pixels, *maps, cv2.INTER_LINEAR)[..., :2] * step
    return places[:, ::-1] if flipped else places


@pytest.mark.parametrize(
    "width, height, step, shrink",
    [(250, 190, 1, 1), (431, 349, 2, 2), (1003, 805, 4, 4), (1501, 1205, 6, 8)],
)
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_overlaps_show_the_same_patch_through_real_files(
    tmp_path, width, height, step, shrink, orientation
):
    """All flip combinations, with reduced decoding and rotated files."""
    exif = Image.Exif()
    exif[274] = orientation
    path = ramp(tmp_path / "x.jpg", width, height, step=step, quality=100, subsampling=0, exif=exif)
    size = 96
    # At the least scale a crop has sqrt(0.5 * 3/4) of the geometric mean side.
    mapper = PairedViewMapper(size=size, scale=(0.5, 1), photometric=PLAIN, min_overlap_side=40)
    shrinks, combinations, errors = set(), set(), []
    original = ImageFile.decode

    def decode(self, *, shrink=1):
        decoded = original(self, shrink=shrink)
        shrinks.add(decoded.shrink)
        return decoded

    ImageFile.decode = decode
    try:
        samples = [draw(mapper, record(path, index)) for index in range(24)]
    finally:
        ImageFile.decode = original
    for sample in samples:
        if not sample["valid"]:
            continue
        first, second = (
            patch_places(view, box.numpy(), bool(flip), step)
            for view, box, flip in zip(
                sample["views"], sample["overlap"], sample["flipped"], strict=True
            )
        )
        errors.append(np.abs(first - second).mean(axis=(0, 1)))
        combinations.add(tuple(sample["flipped"].tolist()))
    assert shrink in shrinks
    assert len(combinations) == 4
    # A view pixel is at least width * 0.6 / size pixels of the image.
    pixel = max(1.0, 0.6 * min(width, height) / size)
    assert np.max(errors) < 0.5 * pixel


@pytest.mark.parametrize("shape", [(1, 1), (10, 20000), (20000, 10), (2, 3)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_extreme_shapes_survive(tmp_path, shape, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.full((*shape, 3), 77, np.uint8)).save(path)
    sample = draw(PairedViewMapper(size=32, photometric=PLAIN), record(path))
    assert (sample["views"].float() - 77).abs().max() <= 1
    assert sample["valid"]


def test_unreadable_files_are_reported_not_hidden(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"\xff\xd8\xff")
    for mapper in (PairedViewMapper(), DetectionMapper(is_train=False, augmentations=[])):
        with pytest.raises(BadImage, match="x.jpg"):
            draw(mapper, record(path))


def test_both_views_show_their_crops(photo):
    """Against the geometry and the colours applied one by one."""
    mapper = PairedViewMapper(size=150)
    image = ImageFile(photo)
    pair, views = mapper.views_of(image, 5)
    rng = np.random.default_rng(5)
    operations = [mapper.photometric.draw(rng) for _ in range(2)]
    expected = RandomCrop(size=150).draw_pair(rng, 320, 240)
    assert (pair.first, pair.second) == (expected.first, expected.second)
    for view, crop, ops in zip(views, (pair.first, pair.second), operations, strict=True):
        pixels = Photometric.apply(crop.apply_image(image.decode().pixels), ops)
        assert (view == pixels.transpose(2, 0, 1)).all()
    flipped = replace(pair.first, flipped=not pair.first.flipped)
    mirrored = flipped.apply_image(image.decode().pixels)
    assert (mirrored[:, ::-1] == pair.first.apply_image(image.decode().pixels)).all()


# --- finetuning ---


def polygon(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def labelled(path, **more):
    return record(
        path,
        width=320,
        height=240,
        annotations=[
            {
                "bbox": [32, 24, 64, 48],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 2,
                "segmentation": polygon(32, 24, 96, 72),
                "iscrowd": 0,
            },
            {
                "bbox": [300, 200, 400, 300],  # half outside
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 5,
                "segmentation": polygon(300, 200, 320, 240),
            },
            {"bbox": [5, 5, 5, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1},
            {"bbox": [400, 5, 500, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1},
            {"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 1, "iscrowd": 1},
        ],
        **more,
    )


HALF = [T.ResizeShortestEdge(120, 400), T.RandomFlip(prob=1.0)]


def test_boxes_follow_the_image(photo):
    sample = DetectionMapper(is_train=True, augmentations=HALF)(labelled(photo))
    assert sample["image"].shape == (3, 120, 160) and sample["image"].dtype == torch.uint8
    assert sample["image"].is_contiguous()
    assert (sample["height"], sample["width"]) == (240, 320)
    instances = sample["instances"]
    assert instances.image_size == (120, 160)
    assert instances.gt_classes.tolist() == [2, 5]
    assert instances.gt_boxes.tensor.tolist() == [[112, 12, 144, 36], [0, 100, 10, 120]]
    assert not instances.has("gt_masks")
    assert not {"annotations", "sem_seg_file_name"} & sample.keys()


@pytest.mark.parametrize("kind, masks", [("polygon", PolygonMasks), ("bitmask", BitMasks)])
def test_masks_follow_the_image(photo, kind, masks):
    mapper = DetectionMapper(
        is_train=True, augmentations=HALF, use_instance_mask=True, instance_mask_format=kind
    )
    sample = mapper(labelled(photo))
    found = sample["instances"].gt_masks
    assert isinstance(found, masks)
    difference = found.get_bounding_boxes().tensor - sample["instances"].gt_boxes.tensor
    assert difference.abs().max() <= 1
    empty = mapper({**labelled(photo), "annotations": []})["instances"]
    assert len(empty) == 0 and isinstance(empty.gt_masks, masks)
    assert empty.gt_boxes.tensor.shape == (0, 4)


def test_the_record_is_left_as_it_was(photo):
    before, rec = str(labelled(photo)), labelled(photo)
    DetectionMapper(is_train=True, augmentations=HALF, use_instance_mask=True)(rec)
    assert str(rec) == before


def test_boxes_fit_their_masks_after_a_crop(photo):
    y, x = np.mgrid[:240, :320]
    triangle = {
        "bbox": [0, 0, 200, 200],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 0,
        "segmentation": coco_mask.encode(np.asfortranarray(x + y < 200).astype(np.uint8)),
    }
    mapper = DetectionMapper(
        is_train=True,
        augmentations=[T.CropTransform(100, 0, 100, 200)],
        use_instance_mask=True,
        instance_mask_format="bitmask",
        recompute_boxes=True,
    )
    sample = mapper(record(photo, annotations=[triangle]))
    x0, y0, x1, y1 = sample["instances"].gt_boxes.tensor[0].tolist()
    assert (x0, y0, x1, y1) == (0, 0, 100, 100)


def test_inference_samples(photo):
    mapper = DetectionMapper(is_train=False, augmentations=[T.ResizeShortestEdge(120, 400)])
    sample = mapper({**labelled(photo), "sem_seg_file_name": "absent.png"})
    assert sample.keys() == {
        "image", "height", "width", "file_name", "image_id", "index", "epoch",
    }  # fmt: skip


def test_bgr_swaps_the_channels(photo):
    rgb, bgr = (
        DetectionMapper(is_train=False, augmentations=[], image_format=f)(record(photo))["image"]
        for f in ("RGB", "BGR")
    )
    assert torch.equal(rgb, bgr.flip(0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_semantic_labels_follow_the_image(photo, tmp_path, dtype):
    labels = np.full((240, 320), 3, dtype)
    labels[:, 160:] = 255
    path = tmp_path / "labels.png"
    Image.fromarray(labels).save(path)
    mapper = DetectionMapper(is_train=True, augmentations=HALF)
    sample = mapper(record(photo, sem_seg_file_name=str(path)))
    assert sample["sem_seg"].dtype == torch.int64
    expected = torch.full((120, 160), 3)
    expected[:, :80] = 255  # mirrored
    assert torch.equal(sample["sem_seg"], expected)
    Image.fromarray(labels[:100]).save(path)
    with pytest.raises(BadImage, match="320x100.*320x240"):
        mapper(record(photo, sem_seg_file_name=str(path)))


def test_labels_for_another_size_are_refused(photo):
    with pytest.raises(BadImage, match="320x240.*240x320"):
        DetectionMapper(is_train=True, augmentations=[])(record(photo, width=240, height=320))


def test_lines_are_refused_before_they_are_resized(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((10, 20000), np.uint8)).save(path)
    with pytest.raises(BadImage, match="20000x10"):
        DetectionMapper(is_train=False, augmentations=HALF)(record(path))
    dot = tmp_path / "dot.png"
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(dot)
    sample = DetectionMapper(is_train=False, augmentations=HALF)(record(dot))
    assert sample["image"].shape == (3, 120, 120)


def test_impossible_settings_say_what_to_do(photo):
    with pytest.raises(UserError, match="use_instance_mask"):
        DetectionMapper(is_train=True, augmentations=[], recompute_boxes=True)
    with pytest.raises(UserError, match="'rle'"):
        DetectionMapper(is_train=True, augmentations=[], instance_mask_format="rle")
    boxes = labelled(photo)
    del boxes["annotations"][1]["segmentation"]
    with pytest.raises(UserError, match="without a mask"):
        DetectionMapper(is_train=True, augmentations=[], use_instance_mask=True)(boxes)
