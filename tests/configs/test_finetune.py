"""R-CNN's and RetinaNet's recipes resolve to plain files, and say what their YAML twins say."""

from pathlib import Path

import pytest
from detectron2.config import get_cfg, instantiate
from omegaconf import OmegaConf

from d2_unsupdet.config import add_unsupdet_config
from d2_unsupdet.data.catalog import split_names
from d2_unsupdet.engine.config import load_config, resolve_class_count, to_plain

FINETUNE = Path(__file__).parents[2] / "configs/finetune"
ALL = sorted(FINETUNE.rglob("*.py"))
RECIPES = [p for p in ALL if "rcnn" in p.stem or "retinanet" in p.stem]
TWINS = [p for p in RECIPES if p.with_suffix(".yaml").exists()]


def name(path: Path) -> str:
    return str(path.relative_to(FINETUNE).with_suffix(""))


def test_every_yaml_has_a_recipe():
    assert {p.with_suffix(".py") for p in FINETUNE.rglob("*.yaml")} <= set(ALL)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_resolves_to_plain_values_with_one_class_count(path):
    cfg = load_config(str(path))
    resolve_class_count(cfg, ["a", "b", "c"], "three")
    plain = to_plain(cfg)
    heads = plain["model"].get("roi_heads", plain["model"])
    part = heads.get("box_predictor") or heads["head"]
    assert heads["num_classes"] == part["num_classes"] == 3
    again = OmegaConf.create(plain, flags={"allow_objects": True})
    multiplier = instantiate(again.lr_multiplier)
    drops = instantiate(again.lr_multiplier.scheduler)
    assert multiplier(0.0) == pytest.approx(0.001) and drops(0.999) < 0.11


@pytest.mark.parametrize("path", TWINS, ids=name)
def test_says_what_its_yaml_says(path):
    cfg = load_config(str(path))
    yaml = get_cfg()
    add_unsupdet_config(yaml)
    yaml.merge_from_file(str(path.with_suffix(".yaml")))
    train, test, schedule = cfg.dataloader.train, cfg.dataloader.test, cfg.lr_multiplier
    steps = schedule.scheduler
    resize, test_resize = train.mapper.augmentations[0], test.mapper.augmentations[0]
    solver, inputs = yaml.SOLVER, yaml.INPUT
    assert tuple(split_names(train.dataset.names)) == yaml.DATASETS.TRAIN
    assert tuple(split_names(test.dataset.names)) == yaml.DATASETS.TEST
    assert train.total_batch_size == solver.IMS_PER_BATCH
    assert cfg.optimizer.lr == solver.BASE_LR
    assert cfg.optimizer.weight_decay == solver.WEIGHT_DECAY
    assert cfg.train.max_iter == steps.num_updates == solver.MAX_ITER
    assert tuple(steps.milestones) == solver.STEPS
    assert schedule.warmup_length * cfg.train.max_iter == pytest.approx(solver.WARMUP_ITERS)
    assert tuple(resize.short_edge_length) == inputs.MIN_SIZE_TRAIN
    assert resize.max_size == inputs.MAX_SIZE_TRAIN == test_resize.max_size
    assert test_resize.short_edge_length == inputs.MIN_SIZE_TEST
    assert train.mapper.use_instance_mask == yaml.MODEL.MASK_ON == ("mask" in path.stem)
    assert cfg.train.precise_bn.enabled == yaml.TEST.PRECISE_BN.ENABLED
    assert cfg.train.precise_bn.num_iter == yaml.TEST.PRECISE_BN.NUM_ITER
