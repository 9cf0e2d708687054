"""Pretraining recipes resolve to plain files and build a model that exports a backbone."""

from pathlib import Path

import pytest
from detectron2.config import instantiate
from omegaconf import OmegaConf
from PIL import Image

from d2_unsupdet.engine.config import load_config, resolve_class_count, to_plain

CONFIGS = Path(__file__).parents[2] / "configs"
DETECTORS = "detreg", "join_det", "siamese_detr", "up_detr"  # see test_box_pretexts.py
RECIPES = sorted(
    path
    for path in (CONFIGS / "pretrain").rglob("*.py")
    if not set(DETECTORS) & set(path.relative_to(CONFIGS).parts)
    and "imagenet100" not in path.stem  # the models of ImageNet
)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_resolves_and_exports(path):
    cfg = load_config(str(path))
    resolve_class_count(cfg, ["a", "b", "c"], "any")  # a segmentor's clusters
    plain = to_plain(cfg)
    model = instantiate(OmegaConf.create(plain["model"], flags={"allow_objects": True}))
    exported = model.export()
    assert "stem.conv1.weight" in exported and not any("query" in name for name in exported)


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("pretrain/*/coco_r50*.py")), ids=lambda p: p.parent.name
)
def test_coco_s_images_are_enough(path, tmp_path, monkeypatch):
    folder = tmp_path / "coco/train2017"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "000000000009.jpg")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert len(instantiate(load_config(str(path)).dataloader.train.dataset)) == 1


def test_moco_200_epochs_is_the_paper_s_schedule():
    cfg = load_config(str(CONFIGS / "pretrain/moco_v2/imagenet_r50_200ep.py"))
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (
        0.03,
        0.9,
        1e-4,
    )
    assert cfg.optimizer.params.get("norm_weight_decay") is None
    assert cfg.dataloader.train.total_batch_size == 256 and cfg.train.max_iter == "200 epochs"
    multiplier = instantiate(cfg.lr_multiplier)
    assert [multiplier(x) for x in (0.0, 0.5)] == pytest.approx([1.0, 0.5])
