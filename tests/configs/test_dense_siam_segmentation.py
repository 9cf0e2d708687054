"""Unsupervised segmentation end to end: the paper's constants, scores, pictures, equal resume."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import instantiate

from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.run import evaluate, prepare, train
from d2_unsupdet.errors import UserError
from tests.data.miniature import write_image

CONFIGS = Path(__file__).parents[2] / "configs/pretrain/dense_siam_segmentation"
SHORT = [  # a run of a segmentor
    "dataloader.train.total_batch_size=4",
    "dataloader.train.num_workers=0",
    "dataloader.test.dataset.names=toy_sem_seg_val:images=3:size=64",
    "dataloader.test.num_workers=0",
    "train.log_period=1",
    "train.writers=[]",
    "train.pictures=2",
    "train.max_iter=3",
    "train.checkpointer.period=2",
]
TINY = [
    *SHORT,
    "dataloader.train.dataset.names=toy_unlabeled:images=8:size=64",
    "dataloader.train.mapper.size=32",
]


def run(output: Path, *overrides: str, resume: bool = False) -> dict:
    options = [*TINY, *overrides, f"train.output_dir={output}"]
    cfg = prepare(load_config(str(CONFIGS / "toy.py"), options), resume=resume)
    train(to_plain(cfg), {"resume": resume, "allow_unsafe": False})
    return json.loads((output / "summary.json").read_text())


def test_it_trains_scores_draws_and_resumes_to_the_same_bits(tmp_path, capsys):
    summary = run(tmp_path)
    scores = summary["result"]["sem_seg"]
    assert {"mIoU", "pACC", "mACC", "mIoU-things", "mIoU-stuff", "IoU-background"} < set(scores)
    groups = [e["group"] for e in json.loads((tmp_path / "pictures/index.json").read_text())]
    assert sorted(groups) == ["predictions", "predictions", "views", "views"]
    assert (tmp_path / "model_best.pth").exists() and (tmp_path / "export.safetensors").exists()
    assert json.loads((tmp_path / "evaluation/clusters.json").read_text())["classes"]
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    assert run(tmp_path, resume=True)["state_sha256"] == summary["state_sha256"]

    options = [*TINY, f"train.output_dir={tmp_path}"]
    cfg = prepare(load_config(str(CONFIGS / "toy.py"), options), eval_only=True)
    assert cfg.model.num_classes == 9
    capsys.readouterr()
    evaluate(to_plain(cfg), {"resume": True, "allow_unsafe": False})
    printed = capsys.readouterr().out
    again = json.loads(printed[printed.index("{\n") :])  # behind the log
    assert again["sem_seg"]["mIoU"] == pytest.approx(scores["mIoU"])


def write_regions(root: Path, count: int, seed: int, side: int = 48) -> None:
    """Images of regions in four colours, of any brightness and grain, and their label maps."""
    rng = np.random.default_rng(seed)
    colors = np.array([[200, 70, 70], [70, 190, 80], [70, 90, 210], [200, 190, 90]])
    place = np.stack(np.mgrid[:side, :side], axis=-1)[:, :, None]  # (side, side, 1, 2)
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(count):
        nearest = ((place - rng.random((4, 2)) * side) ** 2).sum(axis=-1).argmin(axis=-1)
        kinds = rng.integers(0, 4, 4)
        shades = colors[kinds] * rng.uniform(0.6, 1.2, (4, 1)) + rng.normal(0, 20, (4, 3))
        image = shades[nearest] + rng.normal(0, 20, (side, side, 3))
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / f"images/{number:03d}.png"), pixels)
        cv2.imwrite(str(root / f"labels/{number:03d}.png"), kinds[nearest].astype(np.uint8))
    (root / "labels/classes.txt").write_text("red\ngreen\nblue\nyellow\n")


@pytest.mark.slow
def test_it_finds_classes_that_both_views_show(tmp_path):
    write_regions(tmp_path / "train", 160, seed=0)
    write_regions(tmp_path / "val", 40, seed=1)
    options = [
        f"dataloader.train.dataset.names=folder:{tmp_path}/train/images",
        f"dataloader.test.dataset.names=sem_seg:{tmp_path}/val/labels@{tmp_path}/val/images",
        "dataloader.train.mapper.size=48",
        "dataloader.train.mapper.resize=48",
        "dataloader.train.total_batch_size=16",
        "train.pictures=0",
    ]
    untrained = run(tmp_path / "0", *options, "optimizer.lr=0", "train.max_iter=15")
    trained = run(tmp_path / "1", *options, "train.max_iter=60")
    before, after = (r["result"]["sem_seg"]["mIoU"] for r in (untrained, trained))
    assert after > 55 and after > before + 15, (before, after)


def test_the_recipe_is_the_official_one():
    cfg = load_config(str(CONFIGS / "coco_stuff27_r18.py"))
    assert cfg.optimizer.lr == 0.05 and cfg.dataloader.train.total_batch_size == 256
    assert cfg.train.max_iter == "10 epochs" and cfg.train.sync_bn
    multiplier = instantiate(cfg.lr_multiplier)
    assert [multiplier(x) for x in (0.0, 0.5, 0.99)] == [1, 1, 1]
    mapper = instantiate(cfg.dataloader.train.mapper)
    assert (mapper.size, mapper.resize) == (320, 640)
    assert instantiate(cfg.dataloader.test.mapper).size == 320
    # Of ten epochs the last two: on at the first step of the ninth.
    assert [epoch / 10 >= cfg.model.region_start for epoch in range(10)] == [False] * 8 + [True] * 2


def test_the_blur_of_the_scenes_is_the_papers_in_shares_of_the_square():
    mappers = [
        instantiate(load_config(str(CONFIGS / f"{name}.py")).dataloader.train.mapper)
        for name in ("coco_stuff27_r18", "toy")
    ]
    official, toy = (mapper.photometric.sigma[1] / mapper.resize for mapper in mappers)
    assert toy == pytest.approx(official)
    assert mappers[1].photometric.independent  # PiCIE's law, with other ranges


def test_classes_come_from_the_labelled_set_or_are_a_number(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split in ("train2017", "val2017", "stuffthingmaps/val2017"):
        write_image(tmp_path / f"coco/{split}/000000000001.{'png' if 'maps' in split else 'jpg'}")
    recipe = str(CONFIGS / "coco_stuff27_r18.py")
    output = f"train.output_dir={tmp_path}/out"
    assert prepare(load_config(recipe, [output])).model.num_classes == 27
    more = prepare(load_config(recipe, [output, "model.num_classes=50"]))
    assert more.model.num_classes == 50  # clusters are a free choice
    unlabelled = ["dataloader.test=null", "dataloader.evaluator=null", output]
    with pytest.raises(UserError, match="num_classes='auto' .* is read without labels"):
        prepare(load_config(recipe, unlabelled))
    alone = prepare(load_config(recipe, [*unlabelled, "model.num_classes=20"]))
    assert alone.model.num_classes == 20
