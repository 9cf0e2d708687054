"""Both views show the place that their keys say; labels follow the image; bad files are named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from d2_unsupdet.data import build_train_loader
from d2_unsupdet.data.images import BadImage
from d2_unsupdet.data.photometric import Photometric
from d2_unsupdet.data.replayed import ReplayedViewMapper, SegmentationTestMapper, middle_square
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.dense_siam_segmentor import replay
from d2_unsupdet.pretext.overlap import view_geometry
from d2_unsupdet.seeding import seeded

CONFIGS = Path(__file__).parents[2] / "configs"
PLAIN = Photometric(jitter=0, grayscale=0, blur=0)


def ramp(path, width, height):
    """Red counts columns and green rows, from 0 to 255 over the whole image."""
    y, x = np.mgrid[:height, :width]
    x, y = (x + 0.5) / width * 255, (y + 0.5) / height * 255
    image = np.stack([x, y, np.full_like(x, 99)], axis=-1)
    Image.fromarray(image.round().astype(np.uint8)).save(path)
    return {"file_name": str(path), "image_id": 7, "index": 3, "epoch": 0}


def draw(mapper, record, epoch=0, seed=0):
    with seeded(seed, epoch, record["index"]):
        return mapper({**record, "epoch": epoch})


def test_the_sample_has_the_keys_of_a_pair(tmp_path):
    record = ramp(tmp_path / "a.png", 100, 80)
    sample = draw(ReplayedViewMapper(size=32, resize=64), {**record, "annotations": []})
    assert sample["views"].shape == (2, 3, 32, 32) and sample["views"].dtype == torch.uint8
    assert sample["overlap"].dtype == torch.float32 and sample["overlap"].shape == (2, 4)
    assert sample["overlap"][0].tolist() == [0, 0, 32, 32]
    assert sample["flipped"].dtype == torch.bool and not sample["flipped"][1]
    assert sample["valid"] is True and "annotations" not in sample
    assert (sample["image_id"], sample["index"], sample["epoch"]) == (7, 3, 0)


@pytest.mark.parametrize("width, height", [(200, 100), (60, 90), (900, 700)])
def test_replaying_view_2_gives_view_1(tmp_path, width, height):
    """The views themselves as feature maps: after the replay they must be equal everywhere."""
    record = ramp(tmp_path / "a.jpg", width, height)
    mapper = ReplayedViewMapper(size=48, resize=96, photometric=PLAIN)
    samples = [draw(mapper, record, epoch) for epoch in range(6)]
    assert {bool(s["flipped"][0]) for s in samples} == {False, True}
    first, second = (torch.stack([s["views"][v] for s in samples]).float() for v in (0, 1))
    again = replay(second, *view_geometry(samples, torch.device("cpu")))
    difference = (again - first).abs()[:, :2]  # JPEG and rounding; the border is half a cell off
    assert difference[..., 1:-1, 1:-1].max() < 4 and difference.mean() < 1.2


def test_rectangles_are_in_pixels_of_the_image(tmp_path):
    record = ramp(tmp_path / "a.png", 200, 100)
    mapper = ReplayedViewMapper(size=48, resize=96, photometric=PLAIN)
    for epoch in range(4):
        sample = draw(mapper, record, epoch)
        assert sample["rectangles"][1].tolist() == [50, 0, 150, 100]
        left, top, right, bottom = sample["rectangles"][0].tolist()
        red, green = (sample["views"][0, c].float() for c in (0, 1))
        assert red.mean() == pytest.approx((left + right) / 2 / 200 * 255, abs=1.5)
        assert green.mean() == pytest.approx((top + bottom) / 2 / 100 * 255, abs=1.5)
        assert 50 - 1e-3 <= left < right <= 150 + 1e-3 and right - left >= 49.5
        mirrored = bool(red[5, 0] > red[5, -1])
        assert mirrored == bool(sample["flipped"][0])


def test_drawn_anew_each_epoch_or_once(tmp_path):
    record = ramp(tmp_path / "a.png", 80, 80)
    anew = ReplayedViewMapper(size=32, resize=64)
    once = ReplayedViewMapper(size=32, resize=64, redraw=False)
    other = ReplayedViewMapper(size=32, resize=64, redraw=False, seed=1)

    def boxes(mapper):
        return {tuple(draw(mapper, record, epoch)["overlap"][1].tolist()) for epoch in range(3)}

    assert len(boxes(anew)) == 3 and len(boxes(once)) == 1 and boxes(once) != boxes(other)
    assert torch.equal(draw(once, record, 0)["views"], draw(once, record, 2)["views"])
    assert boxes(once) != {tuple(draw(once, {**record, "index": 4})["overlap"][1].tolist())}
    assert torch.equal(draw(anew, record, 1)["views"], draw(anew, record, 1)["views"])


def test_the_law_of_the_crop():
    mapper = ReplayedViewMapper(size=320, resize=640)
    rng = np.random.default_rng(0)
    crops = [mapper.draw(rng) for _ in range(3000)]
    sides = [crop.width for crop in crops]
    assert all(crop.width == crop.height for crop in crops)
    assert 320 <= min(sides) < 330 and 630 < max(sides) <= 640
    assert np.mean(sides) == pytest.approx(480, abs=5)
    assert np.mean([crop.flipped for crop in crops]) == pytest.approx(0.5, abs=0.03)
    assert all(c.left >= 0 and c.right <= 640 and c.top >= 0 and c.bottom <= 640 for c in crops)
    free = [c.left / (640 - c.width) for c in crops if c.width < 600]
    assert np.mean(free) == pytest.approx(0.5, abs=0.03)


def test_any_worker_count_gives_the_same_bits(tmp_path):
    records = [{**ramp(tmp_path / f"{i}.png", 70 + i, 60), "image_id": i} for i in range(4)]

    def batches(workers):
        loader = build_train_loader(
            dataset=records,
            mapper=ReplayedViewMapper(size=32, resize=64),
            total_batch_size=2,
            num_workers=workers,
        )
        stream = loader.from_step(0)
        return [next(stream) for _ in range(4)]

    for one, two in zip(batches(0), batches(2), strict=True):
        for a, b in zip(one, two, strict=True):
            assert a["image_id"] == b["image_id"]
            for key in ("views", "overlap", "flipped", "rectangles"):
                assert torch.equal(a[key], b[key]), key


def test_colours_of_picie_have_their_own_chances_and_a_fixed_order():
    rng = np.random.default_rng(0)
    photometric = ReplayedViewMapper().photometric
    draws = [[o.name for o in photometric.draw(rng)] for _ in range(4000)]
    order = ["brightness", "contrast", "saturation", "hue", "grayscale", "blur"]
    assert all(names == [n for n in order if n in names] for names in draws)
    for name, chance in zip(order, [0.8, 0.8, 0.8, 0.8, 0.2, 0.5], strict=True):
        assert np.mean([name in names for names in draws]) == pytest.approx(chance, abs=0.03)
    both = np.mean(["hue" in names and "contrast" in names for names in draws])
    assert both == pytest.approx(0.64, abs=0.03)  # independent of each other


def recipe_mapper():
    cfg = load_config(str(CONFIGS / "pretrain/dense_siam_segmentation/coco_stuff27_r18.py"))
    return instantiate(cfg.dataloader.train.mapper)


@pytest.mark.parametrize("build", [ReplayedViewMapper, recipe_mapper])
def test_colours_of_picie_have_the_papers_ranges(build):
    """Brightness, contrast and saturation 0.7 to 1.3, hue -0.1 to 0.1, sigma 0.1 to 2."""
    ranges = {"brightness": (0.7, 1.3), "contrast": (0.7, 1.3), "saturation": (0.7, 1.3)}
    ranges |= {"hue": (-0.1, 0.1), "blur": (0.1, 2.0)}
    rng = np.random.default_rng(0)
    photometric = build().photometric
    drawn = [operation for _ in range(2000) for operation in photometric.draw(rng)]
    for name, (low, high) in ranges.items():
        values = [operation.value for operation in drawn if operation.name == name]
        near = 0.02 * (high - low)
        assert low <= min(values) < low + near and high - near < max(values) <= high, name
    chances = [sum(o.name == name for o in drawn) / 2000 for name in (*ranges, "grayscale")]
    assert chances == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.5, 0.2], abs=0.04)


def test_each_view_has_colours_of_its_own(tmp_path):
    """Brightness of an even grey image: two factors that do not know of each other."""
    Image.fromarray(np.full((40, 40, 3), 100, np.uint8)).save(tmp_path / "grey.png")
    record = {"file_name": str(tmp_path / "grey.png"), "index": 0}
    only = Photometric(
        brightness=0.5, contrast=0, saturation=0, hue=0, jitter=1, grayscale=0, blur=0
    )
    mapper = ReplayedViewMapper(size=16, resize=32, photometric=only)
    views = torch.stack([draw(mapper, record, epoch)["views"] for epoch in range(200)])
    factors = views.float().mean(dim=(2, 3, 4)).numpy() / 100  # (200, 2)
    assert (np.ptp(factors, axis=0) > 0.9).all()
    assert (np.abs(factors[:, 0] - factors[:, 1]) > 0.02).mean() > 0.9
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.25


def test_bad_files_and_settings_are_named(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no image")
    for mapper in (ReplayedViewMapper(), SegmentationTestMapper()):
        with pytest.raises(BadImage, match="broken.jpg"):
            draw(mapper, {"file_name": str(broken), "index": 0})
    with pytest.raises(UserError, match="scale="):
        ReplayedViewMapper(scale=(0.5, 1.5))


# ---- evaluation


@pytest.mark.parametrize("width, height", [(50, 30), (30, 50), (31, 33)])
def test_labels_lie_where_their_pixels_do(tmp_path, width, height):
    """A label map that counts the image's own cells of ten pixels."""
    record = ramp(tmp_path / "a.png", width, height)
    y, x = np.mgrid[:height, :width]
    Image.fromarray((x // 10 + 10 * (y // 10)).astype(np.uint8)).save(tmp_path / "label.png")
    record["sem_seg_file_name"] = str(tmp_path / "label.png")
    sample = draw(SegmentationTestMapper(size=40), record)
    image, labels = sample["image"].float(), sample["sem_seg"]
    assert labels.shape == (40, 40) == image.shape[1:] and labels.dtype == torch.int64
    assert (sample["height"], sample["width"]) == (40, 40)
    assert image.dtype == torch.float32 and sample["image"].dtype == torch.uint8
    column = (image[0] / 255 * width).floor()
    row = (image[1] / 255 * height).floor()
    agree = ((column // 10) + 10 * (row // 10)).long() == labels
    assert agree.float().mean() > 0.85  # pixels on the edge of a cell may fall to either side
    square = middle_square(width, height, 40)
    assert int(labels[0, 0]) == square.left // 10 + 10 * (square.top // 10)


def test_an_image_at_its_own_size_is_only_cut(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (20, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(labels).save(tmp_path / "l.png")
    record = {
        "file_name": str(tmp_path / "a.png"),
        "sem_seg_file_name": str(tmp_path / "l.png"),
        "index": 0,
    }
    sample = draw(SegmentationTestMapper(size=20), record)
    assert (sample["image"].permute(1, 2, 0).numpy() == pixels[:, 5:25]).all()
    assert (sample["sem_seg"].numpy() == labels[:, 5:25]).all()


def test_a_label_map_of_another_size_is_refused(tmp_path):
    record = ramp(tmp_path / "a.png", 30, 20)
    Image.fromarray(np.zeros((20, 29), np.uint8)).save(tmp_path / "l.png")
    with pytest.raises(BadImage, match="29x20 pixels, its image 30x20"):
        draw(SegmentationTestMapper(size=20), {**record, "sem_seg_file_name": tmp_path / "l.png"})
    assert "sem_seg" not in draw(SegmentationTestMapper(size=20), record)
