"""Recipes that pretrain whole detectors: the papers' numbers, and exports that finetuning takes."""

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from d2_unsupdet.engine.checks import prepare
from d2_unsupdet.engine.config import (
    dump_config,
    load_config,
    resolve_class_count,
    scored_set,
    to_plain,
)
from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.box_pretext import DROPPED

CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = {"up_detr": "UPDETR", "detreg": "DETReg", "siamese_detr": "SiameseDETR"}
NAMES = sorted(
    str(path.relative_to(CONFIGS / "pretrain").with_suffix(""))
    for method in METHODS
    for path in (CONFIGS / "pretrain" / method).rglob("*.py")
)
TOY = {"detr", "conditional_detr", "deformable_detr", "dab_deformable_detr",
       "dn_dab_deformable_detr", "deta"}  # fmt: skip
FOLDER = "folder_deformable_detr_r18"
FAST, SLOW = 2e-4, 1e-4
SIAMESE = [
    ("imagenet_detr_r50", 10, 3, 100),
    ("imagenet_conditional_detr_r50", 10, 5, 100),
    ("imagenet_deformable_detr_r50", 10, 3, 300),
    ("imagenet_deformable_detr_single_scale_r50", 10, 3, 300),
    ("imagenet_dab_deformable_detr_r50", 10, 3, 300),
    ("imagenet_dn_dab_deformable_detr_r50", 10, 3, 300),
]
SCHEDULES = [  # recipe, length, when the rate drops, batch, rate
    ("up_detr/imagenet_detr_r50_60ep", "60 epochs", 40 / 60, 256, SLOW),
    ("up_detr/imagenet_conditional_detr_r50_300k", 300_000, 2 / 3, 256, SLOW),
    ("up_detr/imagenet_deformable_detr_r50_300k", 300_000, 2 / 3, 256, SLOW),
    ("up_detr/coco_conditional_detr_r50_120k", 120_000, 2 / 3, 64, SLOW),
    ("detreg/imagenet_deformable_detr_r50_5ep", "5 epochs", None, 192, FAST),
    ("detreg/imagenet100_deformable_detr_r50_50ep", "50 epochs", 0.8, 192, FAST),
    ("detreg/coco_deformable_detr_r50_50ep", "50 epochs", 0.8, 192, FAST),
    ("detreg/imagenet_detr_r50_60ep", "60 epochs", None, 192, SLOW),
    *((f"siamese_detr/{name}_300k", 300_000, 2 / 3, 256, SLOW) for name, *_ in SIAMESE),
    ("siamese_detr/coco_conditional_detr_r50_120k", 120_000, 2 / 3, 64, SLOW),
]
SWEEP = {(0, 3), (0.1, 3), (1, 3), (3, 3), (0.3, 0), (0.3, 1), (0.3, 5), (0.3, 10)}


def quickly(rows: Sequence, chosen: Collection[int]) -> list:
    """All rows; those not chosen are slow, since a recipe takes a second to read and build."""
    marks = [() if i in chosen else pytest.mark.slow for i in range(len(rows))]
    return [pytest.param(*row, marks=mark) for row, mark in zip(rows, marks, strict=True)]


def load(name: str, *overrides: str, room: str = "pretrain") -> DictConfig:
    """A recipe as a run saves it."""
    cfg = load_config(str(CONFIGS / room / f"{name}.py"), list(overrides))
    resolve_class_count(cfg, [str(i) for i in range(7)], "some", strict=False)
    return OmegaConf.create(to_plain(cfg), flags={"allow_objects": True})


def built(cfg: DictConfig) -> torch.nn.Module:
    """The model; its weights take no memory."""
    with torch.device("meta"):
        return instantiate(cfg.model)


def shapes(state: dict) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_every_kind_of_recipe_is_in_the_tables():
    """All of them, in iterations, stand in test_every_config.py."""
    known = {row[0] for row in SCHEDULES}
    known |= {f"{method}/toy_{name}" for method in METHODS for name in TOY}
    known |= {f"{method}/{FOLDER}" for method in METHODS}
    sweep = {name for name in NAMES if "/weights/" in name}
    assert known < set(NAMES) - sweep and len(sweep) == len(SWEEP)


@pytest.mark.parametrize(
    "name, length, drop, batch, rate", quickly(SCHEDULES, range(1, 20, 3)), ids=str
)
def test_the_papers_schedules_and_a_frozen_backbone(name, length, drop, batch, rate):
    cfg = load(name)
    assert cfg.train.max_iter == length and cfg.train.clip_grad_norm == 0.1
    assert cfg.dataloader.train.total_batch_size == batch and cfg.optimizer.lr == rate
    assert cfg.optimizer.weight_decay == 1e-4
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(0.0) == multiplier((drop or 1) - 1e-3) == 1.0  # no warm-up
    assert multiplier(0.9999) == pytest.approx(0.1 if drop else 1.0)
    model = built(cfg)
    assert type(model).__name__ == METHODS[name.split("/")[0]]
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if ".backbone." not in n}
    assert model.teacher is None  # a frozen backbone is its own teacher


@pytest.mark.parametrize(
    "name", quickly([[n] for n in NAMES if "toy_" in n or FOLDER in n], [0, 9, 16])
)
def test_recipes_without_a_file_train_the_backbone_beside_a_frozen_copy(name):
    cfg = load(name)
    model = built(cfg)
    assert all(p.requires_grad for n, p in model.named_parameters() if n.startswith("detector."))
    assert not any(p.requires_grad for p in model.teacher.parameters())
    cfg.optimizer.params.model = model
    rates = {g["lr"] for g in instantiate(cfg.optimizer).param_groups}
    assert rates <= {cfg.optimizer.lr, cfg.optimizer.lr / 10}
    backbone = {id(p) for p in model.detector.backbone.parameters()}
    groups = instantiate(cfg.optimizer).param_groups
    assert all(
        g["lr"] == cfg.optimizer.lr for g in groups for p in g["params"] if id(p) in backbone
    )


@pytest.mark.parametrize("freeze_at, trained", quickly([(5, 0), (4, 1), (2, 3), (0, 5)], [2]))
def test_how_much_of_the_backbone_trains_is_one_setting(freeze_at, trained):
    cfg = load(
        "detreg/coco_deformable_detr_r50_50ep", f"model.detector.backbone.freeze_at={freeze_at}"
    )
    model = built(cfg)
    parts = {n.split(".")[2] for n, p in model.named_parameters()
             if n.startswith("detector.backbone.") and p.requires_grad}  # fmt: skip
    assert len(parts) == trained
    assert (model.teacher is None) == (freeze_at == 5)
    cfg.optimizer.params.model = model
    slow = {id(p) for n, p in model.named_parameters() if n.startswith("detector.backbone.")}
    for group in instantiate(cfg.optimizer).param_groups:
        if any(id(p) in slow for p in group["params"]):
            assert group["lr"] == pytest.approx(2e-5)


@pytest.mark.parametrize("name, glob, region, queries", quickly(SIAMESE, [1]))
def test_siamese_weights_and_queries(name, glob, region, queries):
    cfg = load(f"siamese_detr/{name}_300k").model
    assert (cfg.global_weight, cfg.feature_weight) == (glob, region)
    assert cfg.detector.query_source.num_queries == queries


@pytest.mark.slow
def test_the_sweep_moves_one_weight_at_a_time():
    found = {
        (cfg.model.global_weight, cfg.model.feature_weight)
        for cfg in (load(name) for name in NAMES if "/weights/" in name)
    }
    assert found == SWEEP
    base = load("siamese_detr/coco_conditional_detr_r50_120k").model
    assert (base.global_weight, base.feature_weight) == (0.3, 3)


def test_the_papers_data():
    up, reg, siamese = (
        load(name).dataloader.train.mapper
        for name in (
            "up_detr/imagenet_detr_r50_60ep",
            "detreg/coco_deformable_detr_r50_50ep",
            "siamese_detr/imagenet_detr_r50_300k",
        )
    )
    edges = [320, 336, 352, 368, 400, 416, 432, 448, 464, 480]
    (resize,) = up.augmentations  # neither mirrored nor cut
    flip, crop, last = reg.augmentations
    for part in (resize, last):
        assert part.short_edge_length == edges and part.max_size == 600
    assert flip.horizontal and crop.prob == 0.5
    assert crop.tfm_or_aug.augs[0].short_edge_length == [400, 500, 600]
    assert crop.tfm_or_aug.augs[1].crop_size == [384, 600]
    assert (up.source.count, up.exactly, reg.count, reg.least) == (10, 10, 30, 2)
    assert siamese.short_edges == edges and siamese.max_size == 600 and siamese.flip == 0.5
    assert siamese.views.iou == 0.5 and siamese.boxes == {**siamese.boxes, "count": 10}
    assert up.crop_size == reg.crop_size == siamese.crop_size == 128
    coco = load("siamese_detr/coco_conditional_detr_r50_120k").dataloader
    assert coco.train.mapper.short_edges == list(range(480, 801, 32))
    assert coco.train.mapper.max_size == 1333 and coco.evaluator.class_agnostic


PARTNERS = [  # what is pretrained, what it is finetuned as
    ("up_detr/imagenet_detr_r50_60ep", "coco/detr_r50_150ep", ["model.encoder.pre_norm=True"]),
    ("detreg/coco_deformable_detr_r50_50ep", "coco/deformable_detr_r50_50ep", []),
    (f"detreg/{FOLDER}", "coco/deformable_detr_r50_two_stage_50ep",
     ["model.backbone.stages.depth=18"]),
    (f"siamese_detr/{FOLDER}", "coco/deformable_detr_r50_50ep", ["model.backbone.stages.depth=18"]),
    ("siamese_detr/imagenet_detr_r50_300k", "coco/detr_r50_150ep", []),
    ("siamese_detr/imagenet_conditional_detr_r50_300k", "coco/conditional_detr_r50_50ep",
     ["model.query_source.num_queries=100"]),
    ("siamese_detr/imagenet_deformable_detr_single_scale_r50_300k",
     "coco/deformable_detr_r50_single_scale_50ep", []),
    ("siamese_detr/imagenet_dn_dab_deformable_detr_r50_300k",
     "coco/dn_dab_deformable_detr_r50_50ep", []),
    *((f"{method}/toy_{name}", f"toy/{name}", []) for method in METHODS for name in sorted(TOY)),
    (f"up_detr/{FOLDER}", "coco/deformable_detr_r50_50ep", ["model.backbone.stages.depth=18"]),
    (f"join_det/{FOLDER}", "coco/deformable_detr_r50_two_stage_50ep",
     ["model.backbone.stages.depth=18"]),
]  # fmt: skip


@pytest.mark.parametrize("name, partner, overrides", quickly(PARTNERS, [0, 2, 5, 10]), ids=str)
def test_an_export_is_the_finetuned_detector_without_its_classes(name, partner, overrides):
    exported = shapes(built(load(name)).export())
    wanted = shapes(built(load(partner, *overrides, room="finetune")).state_dict())
    counted = {k for k in exported if k.endswith("num_batches_tracked")} - set(wanted)
    assert all(k.startswith("backbone.") for k in counted)  # BN's counter, which FrozenBN lacks
    expected = {k: v for k, v in wanted.items() if not k.startswith(DROPPED)}
    assert {k: v for k, v in exported.items() if k not in counted} == expected


@pytest.mark.parametrize(
    "recipe",
    [
        "up_detr/folder_deformable_detr_r18",
        pytest.param("detreg/folder_deformable_detr_r18", marks=pytest.mark.slow),
        pytest.param("siamese_detr/imagenet_detr_r50_300k", marks=pytest.mark.slow),
        "join_det/folder_deformable_detr_r18",
    ],
)
def test_a_labelled_test_set_is_one_override_of_recipe_and_run(recipe, tmp_path):
    output, names = f"train.output_dir={tmp_path / 'run'}", "toy_val:images=4:size=64"
    path = str(CONFIGS / "pretrain" / f"{recipe}.py")
    waiting = load_config(path, ["dataloader.train.dataset.names=toy_unlabeled", output])
    assert scored_set(waiting) is None
    with pytest.raises(UserError, match="leaves it open: give .* dataloader.test.dataset.names="):
        prepare(waiting, eval_only=True)
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(waiting))
    for source in (path, str(saved)):
        cfg = load_config(source, [f"dataloader.test.dataset.names={names}", output])
        prepare(cfg, eval_only=True)
        assert cfg.dataloader.evaluator.dataset_name == names
        assert cfg.model.detector.heads.num_classes == 1
