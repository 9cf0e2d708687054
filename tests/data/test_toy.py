"""The embedded data set: pinned pixels, exact labels, a cache that is whole or absent."""

import hashlib
import json
import multiprocessing

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as coco_mask

from d2_unsupdet.data import builtin, scenes, toy
from d2_unsupdet.data.catalog import check, class_names, get_dataset
from d2_unsupdet.data.scenes import CLASSES, Draws, coverage, draw_scene, draw_side, upsample
from d2_unsupdet.errors import UserError

SMALL = "toy_train:images=6:size=64"

# sha256 of image and instance map: others compare runs on these scenes, so they must not change
PINNED = {
    ("train", 0, 128, "mid"): "1299599156c8d002",
    ("train", 1, 128, "mid"): "da24292a8b6094ed",
    ("val", 199, 128, "mid"): "1db1d44c00cc3352",
    ("unlabeled", 1999, 96, "easy"): "b5e08ae0da2b07f6",
    ("train", 7, 200, "hard"): "879d462f49578b16",
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    builtin.register_all()
    monkeypatch.setenv("D2_UNSUPDET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixel_hash(scene):
    return hashlib.sha256(scene.image.tobytes() + scene.instances.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("place", PINNED)
def test_pixels_are_pinned(place):
    split, index, size, level = place
    scene = draw_scene(seed=0, split=split, index=index, size=size, level=level)
    assert pixel_hash(scene) == PINNED[place]


def test_scene_depends_on_its_place_alone():
    place = {"seed": 1, "split": "train", "index": 3, "size": 64}
    before = np.random.get_state()[1].copy()
    first = draw_scene(**place)
    np.random.rand(7)
    assert pixel_hash(draw_scene(**place)) == pixel_hash(first)
    np.random.set_state(("MT19937", before, 624, 0, 0.0))
    others = [{**place, k: v} for k, v in (("seed", 2), ("split", "val"), ("index", 4))]
    assert pixel_hash(first) not in {pixel_hash(draw_scene(**other)) for other in others}


def test_every_object_shows_at_least_half_of_itself_and_its_class():
    counts = np.zeros(len(CLASSES), int)
    numbers = []
    for index in range(150):
        scene = draw_scene(seed=0, split="train", index=index, size=64)
        numbers.append(len(scene.classes))
        present = np.bincount(scene.instances.ravel(), minlength=1 + len(scene.classes))
        assert (present[1:] > 0).all() and len(present) == 1 + len(scene.classes)
        np.add.at(counts, list(scene.classes), 1)
        np.testing.assert_array_equal(scene.semantic() > 0, scene.instances > 0)
    assert counts.min() > 30  # 64 expected of each class
    assert set(numbers) == {1, 2, 3, 4, 5, 6} and 3 < np.mean(numbers) < 4


def test_sides_reach_from_3_to_60_per_cent():
    draws = Draws("sides")
    sides = np.array([draw_side(draws, 128) for _ in range(5000)]) / (128 * scenes.ONE)
    assert 0.0299 < sides.min() < 0.031 and 0.59 < sides.max() < 0.6001
    assert 0.08 < (sides < 0.1).mean() < 0.12


@pytest.mark.parametrize("name", CLASSES)
def test_visible_box_has_the_drawn_side(name, monkeypatch):
    """The longer side of the pixels is the drawn side, whatever the rotation."""
    monkeypatch.setattr(scenes, "draw_side", lambda draws, size: 40 * scenes.ONE)
    for seed in range(8):
        mask = scenes._shape_opacity(Draws("shape", seed), name, 128) > scenes.ONE // 2
        sides = [np.ptp(np.flatnonzero(mask.any(axis))) + 1 for axis in (0, 1)]
        assert 37 <= max(sides) <= 41


def test_coverage_of_known_shapes():
    square = np.array([(256, 512), (256, 1024), (768, 1024), (768, 512)])
    expected = np.zeros((5, 4))
    expected[2:4, 1:3] = 256
    np.testing.assert_array_equal(coverage([square], 5, 4), expected)
    np.testing.assert_array_equal(coverage([square + 128], 5, 4)[2], [0, 64, 128, 64])
    circle = scenes._polygon(64) * 30 * 256 // 1024 + 32 * 256
    inner = scenes._polygon(64) * 10 * 256 // 1024 + 32 * 256
    area = coverage([circle, inner], 64, 64).sum() / 256
    assert abs(area - np.pi * (900 - 100)) / area < 0.01


def test_upsample_interpolates_linearly():
    grid = (np.arange(5)[:, None, None] * 64 + np.arange(4)[None, :, None] * 32).astype(np.int32)
    expected = np.arange(16)[:, None] * 16 + np.arange(12)[None, :] * 8
    np.testing.assert_array_equal(upsample(grid, 4, (16, 12))[..., 0], expected)


def test_records_hold_exact_labels():
    records = get_dataset(SMALL)
    drawn = toy.parse(SMALL)
    assert len(records) == 6 and class_names(SMALL) == list(CLASSES)
    for record in records:
        scene = drawn.draw(record["image_id"])
        assert (record["height"], record["width"]) == scene.instances.shape
        assert [a["category_id"] for a in record["annotations"]] == list(scene.classes)
        for k, annotation in enumerate(record["annotations"]):
            mask = scene.instances == k + 1
            polygons = coco_mask.frPyObjects(annotation["segmentation"], *mask.shape)
            np.testing.assert_array_equal(coco_mask.decode(coco_mask.merge(polygons)), mask)
            box = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))
            assert annotation["bbox"] == box.tolist()
        labels = cv2.imread(record["sem_seg_file_name"], cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(labels, scene.semantic())
        stored = cv2.imread(record["file_name"])[..., ::-1].astype(int)
        assert np.abs(stored - scene.image).mean() < 8  # JPEG


def test_unlabeled_split_has_images_only():
    records = get_dataset("toy_unlabeled:images=2:size=32")
    assert set(records[0]) == {"file_name", "image_id", "height", "width"}
    with pytest.raises(UserError, match="has no labels"):
        class_names("toy_unlabeled")


def test_detectron2_reads_and_scores_it():
    """Its mapper makes masks; the truth given as predictions scores 100."""
    from detectron2.data import DatasetMapper
    from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
    from detectron2.structures import BitMasks, Instances

    mapper = DatasetMapper(True, augmentations=[], image_format="RGB", use_instance_mask=True)
    name = "toy_val:images=4:size=64"
    check(name)  # makes the name known to Detectron2
    evaluator = COCOEvaluator(name, ("bbox", "segm"), distributed=False, use_fast_impl=False)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        sample = mapper(record)
        truth = sample["instances"]
        found = Instances(truth.image_size)
        found.pred_boxes, found.pred_classes = truth.gt_boxes, truth.gt_classes
        found.scores = truth.gt_classes * 0 + 0.9
        found.pred_masks = BitMasks.from_polygon_masks(truth.gt_masks, *truth.image_size).tensor
        evaluator.process([sample], [{"instances": found}])
    scores = evaluator.evaluate()
    assert scores["bbox"]["AP50"] == pytest.approx(100)
    assert scores["segm"]["AP50"] == pytest.approx(100)
    assert MetadataCatalog.get("toy_sem_seg_val").ignore_label == 255
    check("toy_sem_seg_val:images=4:size=64")
    SemSegEvaluator("toy_sem_seg_val:images=4:size=64", distributed=False)


def test_cache_is_used_and_moves_with_its_variable(cache, tmp_path, monkeypatch):
    folder = toy.prepare(toy.parse(SMALL))
    assert cache in folder.parents
    stamp = (folder / "instances.json").stat().st_mtime_ns
    assert toy.prepare(toy.parse(SMALL)) == folder
    assert (folder / "instances.json").stat().st_mtime_ns == stamp
    monkeypatch.delenv("D2_UNSUPDET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert toy.cache_root() == tmp_path / "xdg" / "d2_unsupdet"


def test_half_written_cache_is_never_used(cache, monkeypatch):
    drawn = toy.parse(SMALL)
    monkeypatch.setattr(json, "dumps", lambda *args, **more: 1 / 0)  # fails after the images
    with pytest.raises(ZeroDivisionError):
        toy.prepare(drawn, workers=0)
    monkeypatch.undo()
    monkeypatch.setenv("D2_UNSUPDET_CACHE", str(cache))
    assert not drawn.folder().exists()
    assert [p.name for p in drawn.folder().parent.iterdir() if p.is_dir()] == []
    leftover = drawn.folder().with_name(f".{drawn.folder().name}-killed")  # of a killed process
    (leftover / "images").mkdir(parents=True)
    assert len(get_dataset(SMALL)) == 6


def test_processes_change_nothing_and_may_race(cache, monkeypatch):
    drawn = toy.parse(SMALL)
    expected = contents(toy.prepare(drawn, workers=0))
    monkeypatch.setenv("D2_UNSUPDET_CACHE", str(cache / "second"))
    context = multiprocessing.get_context("fork")
    racing = [context.Process(target=toy.prepare, args=(drawn, 2)) for _ in range(3)]
    for process in racing:
        process.start()
    for process in racing:
        process.join(60)
    assert [process.exitcode for process in racing] == [0, 0, 0]
    assert contents(drawn.folder()) == expected
    assert len([p for p in drawn.folder().parent.iterdir() if p.is_dir()]) == 1


def contents(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_publishing_over_a_finished_cache_keeps_it(tmp_path):
    for name in ("temporary", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    toy._publish(tmp_path / "temporary", tmp_path / "final")
    assert (tmp_path / "final/who").read_text() == "final"
    with pytest.raises(OSError):
        toy._publish(tmp_path / "temporary", tmp_path / "no" / "parent")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toy_trian", "Did you mean"),
        ("toy_train:sise=96", "'sise=96' of .* is not understood"),
        ("toy_train:level=brutal", "level=easy|mid|hard"),
        ("toy_train:images=0", "asks for too little"),
        ("toy_train:size=8", "asks for too little"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(UserError, match=message):
        check(name)


def test_overview_is_written(tmp_path):
    toy.main(["toy_val:size=48", "--sheet", str(tmp_path / "sheet.png")])
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (4 * 98, 6 * 98, 3)
    for mistake in ("toy_nothing", "--shet=x"):
        with pytest.raises(UserError, match=mistake.split("=")[0]):
            toy.main([mistake])
