"""Every recipe of the DETR family in Detectron2's YAML trains as the .py beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig

from d2_unsupdet.data.catalog import split_names
from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.schedule import to_iterations
from d2_unsupdet.errors import UserError
from tests.configs.twins import Twins, load_twins, optimizer_settings
from tests.detectors.test_yaml_parts import dump

FINETUNE = Path(__file__).parents[2] / "configs/finetune"
YAMLS = [p for p in sorted(FINETUNE.rglob("*.yaml")) if "detr" in p.stem or "deta" in p.stem]
COCO = 118_287  # training images, those without objects among them


def test_the_main_recipes_have_one():
    assert {p.stem for p in YAMLS} >= {
        "detr_r50_150ep",
        "deformable_detr_r50_50ep",
        "deta_r50_12ep",
    }


@pytest.fixture(scope="module", params=YAMLS, ids=lambda path: path.stem)
def twins(request) -> Twins:
    return load_twins(request.param, num_classes=80)  # of COCO, as the YAML says


def test_the_model_is_the_same(twins):
    (_, model), (_, other) = twins
    assert type(model) is type(other) and dump(model) == dump(other)


def test_the_optimizer_treats_every_parameter_alike(twins):
    ours, theirs = (optimizer_settings(*twin) for twin in twins)
    assert ours == theirs
    assert len({settings["lr"] for settings in theirs.values()}) == 2


def test_the_run_is_the_same(twins):
    def train(cfg: DictConfig) -> dict[str, Any]:
        found = to_plain(cfg.train)
        batch = cfg.dataloader.train.total_batch_size
        for key in ("max_iter", "eval_period"):
            found[key] = to_iterations(found[key], size=COCO, batch=batch)
        del found["recipe_length"], found["amp"]["dtype"]  # no mixed precision in either
        return found

    (cfg, _), (twin, _) = twins
    assert train(cfg) == train(twin) and not cfg.train.amp.enabled
    # Between steps: YAML rounds the drop to one.
    rates = [
        [instantiate(c.lr_multiplier)((x + 0.5) / 100) for x in range(100)] for c in (cfg, twin)
    ]
    assert rates[0] == rates[1]


def test_the_data_are_the_same(twins):
    def loaders(cfg: DictConfig) -> dict[str, Any]:
        train, test = cfg.dataloader.train, cfg.dataloader.test
        return {
            "train": split_names(train.dataset.names),
            "test": split_names(test.dataset.names),
            "keep_empty": train.dataset.keep_empty,
            "subset": train.dataset.get("subset"),
            "grouped": (train.dataset.sizes, train.aspect_ratio_grouping),
            "batch": train.total_batch_size,
            "workers": (train.num_workers, test.num_workers),
            "evaluator": to_plain(cfg)["dataloader"]["evaluator"],
        }

    (cfg, _), (twin, _) = twins
    assert loaders(cfg) == loaders(twin)


def test_one_seed_gives_one_image(twins):
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    for part, seeds in (("train", range(6)), ("test", range(1))):
        mappers = [instantiate(cfg.dataloader[part].mapper) for cfg, _ in twins]
        assert len({mapper.image_format for mapper in mappers}) == 1
        assert not any(mapper.use_instance_mask for mapper in mappers)
        for seed in seeds:
            found = []
            for mapper in mappers:
                np.random.seed(seed)
                found.append(T.AugInput(image))
                mapper.augmentations(found[-1])
            assert np.array_equal(found[0].image, found[1].image)


@pytest.mark.parametrize(
    "override, message",
    [
        ("SOLVER.OPTIMIZER=Adam", "SOLVER.OPTIMIZER='Adam' is not one of SGD, AdamW"),
        ("SOLVER.LR_FACTORS=[['^backbone']]", "LR_FACTORS has .* write a pattern of parameter"),
        ("SOLVER.LR_FACTORS=['^backbone']", "LR_FACTORS has .* write a pattern of parameter"),
    ],
)
def test_wrong_rates_are_sentences(override, message):
    with pytest.raises(UserError, match=message):
        load_config(str(YAMLS[0]), [override])
