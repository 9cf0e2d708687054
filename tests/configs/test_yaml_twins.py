"""Every pretraining recipe in Detectron2's YAML trains as the .py beside it."""

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import instantiate
from omegaconf import DictConfig

from d2_unsupdet.data import catalog
from d2_unsupdet.engine.schedule import to_iterations
from tests.configs.twins import Twins, load_twins, optimizer_settings

RECIPES = Path(__file__).parents[2] / "configs/pretrain"
METHODS = ("moco_v2", "dupr", "simsiam", "dense_siam")
IMAGENET = 1_281_167  # training images


def test_every_method_has_one_yaml():
    found = [path.parent.name for path in RECIPES.rglob("*.yaml")]
    boxes = ["up_detr", "detreg", "siamese_detr"]  # see test_box_twins.py
    assert sorted(found) == sorted([*METHODS, *boxes])


@pytest.fixture(scope="module", params=METHODS)
def twins(request) -> Twins:
    (path,) = (RECIPES / request.param).glob("*.yaml")
    return load_twins(path)


def test_the_model_is_the_same(twins):
    (_, model), (_, twin) = twins
    assert type(model) is type(twin)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, twin)]
    assert shapes[0] == shapes[1]
    settings = [
        {k: v for k, v in vars(m).items() if isinstance(v, bool | int | float | str | tuple | dict)}
        for m in (model, twin)
    ]
    public = [{k: v for k, v in s.items() if not k.startswith("_")} for s in settings]
    assert len(public[0]) > 1 and public[0] == public[1]
    assert getattr(model, "correspondence", None) == getattr(twin, "correspondence", None)


def test_the_optimizer_treats_every_parameter_alike(twins):
    """Rate, decay, and whether the schedule leaves it alone."""
    ours, theirs = (optimizer_settings(*twin) for twin in twins)
    assert ours == theirs
    fixed = {name for name, settings in theirs.items() if settings["fixed_lr"]}
    siamese = {name for name, _ in twins[0][1].named_parameters() if "predictor" in name}
    assert fixed == siamese  # MoCo v2 and DUPR have none


def test_the_run_is_the_same(twins):
    def summary(cfg: DictConfig) -> dict[str, Any]:
        train, batch = cfg.dataloader.train, cfg.dataloader.train.total_batch_size
        multiplier, mapper = instantiate(cfg.lr_multiplier), instantiate(train.mapper)
        return {
            "steps": to_iterations(cfg.train.max_iter, size=IMAGENET, batch=batch),
            "batch": batch,
            "sync_bn": cfg.train.sync_bn,
            "rates": [multiplier(x / 100) for x in range(100)],
            "crops": mapper.law,
            "photometric": vars(mapper.photometric),
            "overlap": (mapper.min_overlap_side, mapper.tries),
            "data": catalog.split_names(train.dataset.names),
        }

    (cfg, _), (twin, _) = twins
    assert summary(cfg) == summary(twin)
    assert cfg.train.amp.enabled is twin.train.amp.enabled
    for key in ("clip_grad_norm", "ema", "accumulate", "init_checkpoint"):
        assert cfg.train[key] == twin.train[key], key
