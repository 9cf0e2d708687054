"""Images and label maps through one geometry; padding is no class; labels stay bytes."""

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T

from d2_unsupdet.data import ScaledCrop, SemanticMapper
from d2_unsupdet.data.images import BadImage
from d2_unsupdet.errors import UserError
from d2_unsupdet.seeding import seeded


@pytest.fixture
def record(tmp_path):
    """An image whose red is its label times 20, in blocks of 16 pixels."""
    labels = np.kron(np.arange(12).reshape(3, 4) % 7, np.ones((16, 16))).astype(np.uint8)
    image = np.zeros((*labels.shape, 3), np.uint8)
    image[..., 2] = labels * 20  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "image.png"), image)
    cv2.imwrite(str(tmp_path / "labels.png"), labels)
    files = {"file_name": "image.png", "sem_seg_file_name": "labels.png"}
    return {"image_id": 3, **{key: str(tmp_path / name) for key, name in files.items()}}


def mapper(**changes):
    augmentations = [ScaledCrop(size=40), T.RandomFlip()]
    return SemanticMapper(**{"augmentations": augmentations, "num_classes": 7, **changes})


def test_labels_follow_the_image_and_missing_pixels_are_no_class(record):
    padded = 0
    for seed in range(20):
        with seeded(seed):
            sample = mapper()(record)
        image, labels = sample["image"], sample["sem_seg"]
        assert image.shape == (3, 40, 40) and labels.shape == (40, 40)
        assert image.dtype == labels.dtype and str(labels.dtype) == "torch.uint8"
        missing = labels == 255
        padded += int(missing.any())
        assert (image[:, missing] == 128).all()  # grey
        shown = (image[0][~missing].float() - 20 * labels[~missing].float()).abs()
        assert (shown <= 2).float().mean() > 0.7  # all but the edges of blocks, which are blended
    assert 0 < padded < 20  # below scale 40/48 something is missing


def test_crops_lie_anywhere():
    """Detectron2's own fixed crop shifts both axes by the same share."""
    corners = set()
    crop = ScaledCrop(size=10, scale=(1.0, 1.0))
    with seeded(0):
        for _ in range(400):
            _, cut, _ = crop.get_transform(np.zeros((12, 13, 3), np.uint8)).transforms
            corners.add((cut.x0, cut.y0))
    assert corners == {(x, y) for x in range(4) for y in range(3)}


def test_scales_cover_the_range_evenly():
    crop = ScaledCrop(size=16)
    with seeded(1):
        sizes = [
            crop.get_transform(np.zeros((100, 50, 3), np.uint8)).transforms[0].new_h
            for _ in range(300)
        ]
    shares = np.histogram(sizes, bins=3, range=(50, 200))[0] / 300
    assert min(sizes) >= 50 and max(sizes) <= 200 and shares.min() > 0.25
    with pytest.raises(UserError, match="is no range"):
        ScaledCrop(size=16, scale=(2.0, 0.5))


def test_a_mapper_without_augmentations_keeps_the_size(record):
    sample = SemanticMapper()(record)
    assert sample["image"].shape == (3, 48, 64) and (sample["height"], sample["width"]) == (48, 64)
    assert (sample["image"][0] == sample["sem_seg"] * 20).all()


def test_what_is_wrong_is_said(record, tmp_path):
    with pytest.raises(UserError, match=r"has the value 5, but the data set has 5 classes, 0 to 4"):
        mapper(num_classes=5)(record)
    mapper(num_classes=6, ignore_label=6)(record)  # 6 is no class here
    unlabelled = {k: v for k, v in record.items() if k != "sem_seg_file_name"}
    with pytest.raises(UserError, match="image.png has no label map"):
        mapper()(unlabelled)
    assert "sem_seg" not in mapper(labelled=False)(unlabelled)
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((5, 5), np.uint8))
    with pytest.raises(BadImage, match="5x5 pixels, its image 64x48"):
        mapper()({**record, "sem_seg_file_name": str(tmp_path / "small.png")})
    cv2.imwrite(str(tmp_path / "wide.png"), np.full((48, 64), 300, np.uint16))
    with pytest.raises(UserError, match="labels are bytes"):
        mapper(num_classes=None)({**record, "sem_seg_file_name": str(tmp_path / "wide.png")})
