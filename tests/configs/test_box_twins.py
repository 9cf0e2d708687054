"""The recipes of box pretexts in Detectron2's YAML train as the .py beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from d2_unsupdet.data import catalog
from d2_unsupdet.engine.config import load_config, scored_set, to_plain
from d2_unsupdet.engine.schedule import to_iterations
from d2_unsupdet.errors import UserError
from tests.configs.twins import Twins, load_twins, optimizer_settings
from tests.detectors.test_yaml_parts import dump

RECIPES = Path(__file__).parents[2] / "configs/pretrain"
METHODS = ("up_detr", "detreg", "siamese_detr")
YAMLS = [path for method in METHODS for path in (RECIPES / method).glob("*.yaml")]
SIZES = {"imagenet": 1_281_167, "coco": 118_287}


@pytest.fixture(scope="module", params=YAMLS, ids=lambda path: path.stem)
def twins(request) -> Twins:
    return load_twins(request.param)


def test_each_method_has_one():
    assert sorted(path.parent.name for path in YAMLS) == sorted(METHODS)


def test_the_model_is_the_same(twins):
    (_, model), (_, other) = twins
    assert type(model) is type(other) and dump(model) == dump(other)


def test_the_optimizer_treats_every_parameter_alike(twins):
    ours, theirs = (optimizer_settings(*twin) for twin in twins)
    assert ours == theirs


def test_the_run_is_the_same(twins):
    def train(cfg: DictConfig) -> dict[str, Any]:
        found, loader = to_plain(cfg.train), cfg.dataloader.train
        size = next(n for k, n in SIZES.items() if k in str(loader.dataset.names))
        for key in ("max_iter", "eval_period"):
            if scored_set(cfg) is not None or key == "max_iter":
                found[key] = to_iterations(found[key], size=size, batch=loader.total_batch_size)
            else:
                del found[key]
        # What has no key in YAML; the check before a run sets the metric of the .py.
        for key in ("recipe_length", "amp", "max_bad_images", "best_metric"):
            del found[key]
        return found | {"data": catalog.split_names(loader.dataset.names)}

    (cfg, _), (twin, _) = twins
    ours, theirs = train(cfg), train(twin)
    periods = ours.pop("eval_period", 0), theirs.pop("eval_period", 0)
    assert ours == theirs and abs(periods[0] - periods[1]) <= 1  # YAML rounds epochs
    rates = [
        [instantiate(c.lr_multiplier)((x + 0.5) / 100) for x in range(100)] for c in (cfg, twin)
    ]
    assert rates[0] == rates[1] and twin.train.best_metric == "bbox_agnostic/AP"
    loaders = [to_plain(c)["dataloader"] for c in (cfg, twin)]
    if scored_set(cfg) is not None:
        assert loaders[0]["evaluator"] == loaders[1]["evaluator"]
    assert len({loader["train"]["total_batch_size"] for loader in loaders}) == 1


def test_one_seed_gives_one_sample(twins, tmp_path):
    import cv2

    path = str(tmp_path / "image.png")
    cv2.imwrite(path, np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    mappers = [instantiate(cfg.dataloader.train.mapper) for cfg, _ in twins]
    assert len({str(vars(m.source)) for m in mappers}) == 1
    for seed in range(4):
        found = []
        for mapper in mappers:
            mapper.source = lambda *_: boxes()
            np.random.seed(seed)
            found.append(mapper({"file_name": path, "image_id": 0}))
        assert found[0].keys() == found[1].keys()
        for key, value in found[0].items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert same(value, found[1][key]), key


def boxes():
    from d2_unsupdet.priors.found import Found

    corner = np.random.default_rng(1).uniform(0, 40, (40, 2))
    found = np.concatenate([corner, corner + 40], axis=1).astype(np.float32)
    return Found(found, np.ones(40, np.float32))


def test_random_boxes_teach_no_objectness_in_yaml_either():
    (path,) = (RECIPES / "up_detr").glob("*.yaml")
    deta = ["MODEL.BOX_PRETEXT.DETECTOR=DETA", "MODEL.DETR.PRE_NORM=None"]
    small = ["MODEL.DETR.ENC_LAYERS=1", "MODEL.DETR.DEC_LAYERS=1", "MODEL.RESNETS.DEPTH=18"]
    levels = 'MODEL.RESNETS.OUT_FEATURES=["res3","res4","res5"]'
    model = instantiate(load_config(str(path), [*deta, *small, levels]).model)
    assert not model.detector.proposals.teaches_encoder
    assert model.detector.postprocess.softmax


def test_a_key_of_another_method_is_refused():
    (path,) = (RECIPES / "detreg").glob("*.yaml")
    cfg = load_config(str(path), ["MODEL.BOX_PRETEXT.JITTER=0.2"])
    with pytest.raises(UserError, match="BOX_PRETEXT.JITTER=0.2 has no effect for DETReg"):
        instantiate(cfg.model)
    with pytest.raises(UserError, match="JoinDet refreshes its boxes during a run.*join_det"):
        load_config(str(path), ["MODEL.META_ARCHITECTURE=JoinDet"])
