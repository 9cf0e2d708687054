"""DUPR's recipes: the paper's constants, and each row of its tables as an override."""

from pathlib import Path

import pytest
from detectron2.config import instantiate

from d2_unsupdet.engine.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs/pretrain/dupr"
ROWS = [  # alpha, beta, other overrides -> losses
    ("[0,0,0,1]", "[0,0,0,0]", [], {"image_res5"}),
    ("[0,0,1,1]", "[0,0,0,0]", [], {"image_res4", "image_res5"}),
    ("[1,1,1,1]", "[0,0,0,0]", [], {f"image_res{i}" for i in (2, 3, 4, 5)}),
    ("[0.1,0.4,0.7,1]", "[0,0,0,1]", ["model.patch_sizes=[56,28,14,3]"], {"patch_res5"}),
    ("[0.1,0.4,0.7,1]", "[0,0,1,1]", [], {"patch_res4", "patch_res5"}),
    ("[0,0,0,0]", "[0,0,0,1]", [], {"patch_res5"}),
]


def test_200_epochs_is_the_paper_s_schedule():
    cfg = load_config(str(CONFIGS / "imagenet_r50_200ep.py"))
    assert (cfg.optimizer.lr, cfg.dataloader.train.total_batch_size) == (0.06, 256)
    assert cfg.train.max_iter == "200 epochs" and cfg.model.backbone.stages.depth == 50
    model = instantiate(cfg.model)
    assert model.query.patch_sizes == {"res4": 14, "res5": 7}
    assert {len(queue.keys) for queue in model.queues.values()} == {65536}


@pytest.mark.parametrize("alpha, beta, others, losses", ROWS)
def test_rows_of_the_tables_are_overrides(alpha, beta, others, losses):
    small = ["model.backbone.stages.depth=18", "model.queue_size=8", "model.patch_queue_size=8"]
    overrides = [f"model.image_weights={alpha}", f"model.patch_weights={beta}", *others, *small]
    cfg = load_config(str(CONFIGS / "imagenet_r50_200ep.py"), [*overrides, "optimizer.lr=0.03"])
    model = instantiate(cfg.model)
    assert losses <= set(model.weights) == set(model.queues)
    if others:
        assert model.query.patch_sizes == {"res5": 3}
