"""The DETR family's recipes: numbers of the papers and their code, and what overrides reach."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from d2_unsupdet import detectors
from d2_unsupdet.engine.config import load_config, resolve_class_count, to_plain
from d2_unsupdet.engine.freeze import freeze

FINETUNE = Path(__file__).parents[2] / "configs/finetune"
ALL = {str(p.relative_to(FINETUNE).with_suffix("")) for p in FINETUNE.rglob("*.py")}
RECIPES = {name for name in ALL if "detr" in name or "deta" in name}
SLOW, FAST = 1e-4, 2e-4
SCHEDULES = [  # recipe, epochs, epoch of the drop, batch, rate
    ("coco/detr_r50_150ep", 150, 100, 16, SLOW),
    ("coco/detr_r50_300ep", 300, 200, 16, SLOW),
    ("coco/detr_r50_500ep", 500, 400, 16, SLOW),
    ("coco/conditional_detr_r50_50ep", 50, 40, 16, SLOW),
    ("coco/deformable_detr_r50_50ep", 50, 40, 32, FAST),
    ("coco/deformable_detr_r50_single_scale_50ep", 50, 40, 32, FAST),
    ("coco/deformable_detr_r50_box_refine_50ep", 50, 40, 32, FAST),
    ("coco/deformable_detr_r50_two_stage_50ep", 50, 40, 32, FAST),
    ("coco/deformable_detr_r50_1pct", 2000, None, 24, FAST),
    ("coco/deformable_detr_r50_2pct", 1000, None, 24, FAST),
    ("coco/deformable_detr_r50_5pct", 500, None, 24, FAST),
    ("coco/deformable_detr_r50_10pct", 400, None, 24, FAST),
    ("coco/dab_deformable_detr_r50_50ep", 50, 40, 16, SLOW),
    ("coco/dn_dab_deformable_detr_r50_50ep", 50, 40, 16, SLOW),
    ("coco/dn_dab_deformable_detr_r50_12ep", 12, 10, 16, SLOW),
    ("coco/dn_dab_deformable_detr_r50_24ep", 24, 20, 16, SLOW),
    ("coco/deta_r50_12ep", 12, 10, 16, FAST),
    ("coco/deta_r50_24ep", 24, 20, 16, FAST),
    ("coco/deta_r50_hungarian_50ep", 50, 40, 16, FAST),
    ("lvis/deta_r50_24ep", 24, 20, 16, FAST),
    ("voc/detr_r50_150ep", 150, 100, 16, SLOW),
    ("voc/detr_r50_300ep", 300, 200, 16, SLOW),
    ("voc/conditional_detr_r50_50ep", 50, 40, 16, SLOW),
    ("voc/conditional_detr_r50_10pct", 50, 40, 16, SLOW),
    ("voc/conditional_detr_r50_30pct", 50, 40, 16, SLOW),
    ("voc/conditional_detr_r50_50pct", 50, 40, 16, SLOW),
    ("voc/conditional_detr_r50_70pct", 50, 40, 16, SLOW),
    ("voc/detr_r50_heads_only", 50, 40, 16, SLOW),
    ("voc/dab_deformable_detr_r50_10pct", 50, 40, 16, SLOW),
    ("voc/dn_dab_deformable_detr_r50_10pct", 50, 40, 16, SLOW),
    ("voc/deformable_detr_r50_100ep", 100, 70, 32, FAST),
    ("voc/deformable_detr_r50_10pct", 200, 150, 8, FAST),
    ("voc/dab_deformable_detr_r50_50ep", 50, 40, 16, SLOW),
    ("voc/dn_dab_deformable_detr_r50_50ep", 50, 40, 16, SLOW),
    ("voc/deta_r50_24ep", 24, 20, 16, FAST),
]
ARCHITECTURES = {
    "detr": "DETR",
    "conditional_detr": "ConditionalDETR",
    "deformable_detr": "DeformableDETR",
    "dab_deformable_detr": "DABDeformableDETR",
    "dn_dab_deformable_detr": "DNDABDeformableDETR",
    "deta": "DETA",
}


def load(name: str, *overrides: str, classes: int = 3) -> DictConfig:
    """A recipe for a data set of some classes, as a run saves it."""
    cfg = load_config(str(FINETUNE / f"{name}.py"), list(overrides))
    resolve_class_count(cfg, [str(i) for i in range(classes)], "some")
    return OmegaConf.create(to_plain(cfg), flags={"allow_objects": True})


def built(cfg: DictConfig) -> detectors.DETR:
    """The model; its weights take no memory."""
    with torch.device("meta"):
        return instantiate(cfg.model)


def test_every_kind_of_recipe_is_in_the_table():
    """All of them, in iterations, stand in test_every_config.py."""
    known = {row[0] for row in SCHEDULES} | {f"toy/{name}" for name in ARCHITECTURES}
    assert known < RECIPES


@pytest.mark.parametrize("name, epochs, drop, batch, rate", SCHEDULES, ids=lambda v: str(v))
def test_schedules(name, epochs, drop, batch, rate):
    cfg = load(name)
    train = cfg.dataloader.train
    assert cfg.train.max_iter == f"{epochs} epochs" and train.total_batch_size == batch
    assert cfg.train.clip_grad_norm == 0.1
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(((drop or epochs) - 0.01) / epochs) == multiplier(0.0) == 1.0  # no warm-up
    if drop:
        after = multiplier((drop + 0.01) / epochs), multiplier(0.9999)
        assert after == pytest.approx((0.1, 0.1))
    assert cfg.optimizer.lr == rate


def group_rates(cfg: DictConfig) -> dict[str, set[float]]:
    """The rates of the backbone, of what places samples, and of all the rest; decay everywhere."""
    model = built(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    names = {id(p): name for name, p in model.named_parameters()}
    rates: dict[str, set[float]] = {"backbone": set(), "places": set(), "rest": set()}
    seen = set()
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 1e-4
        for p in group["params"]:
            name = names[id(p)]
            seen.add(name)
            places = "sampling_offsets" in name or name.startswith("query_source.reference.")
            part = "backbone" if name.startswith("backbone") else "places" if places else "rest"
            rates[part].add(round(group["lr"], 9))
    assert seen == {name for name, p in model.named_parameters() if p.requires_grad}
    return rates


PLACES = [  # what the rate of points and offsets is multiplied by
    ("detr_r50_300ep", None),
    ("conditional_detr_r50_50ep", 1),
    ("deformable_detr_r50_50ep", 0.1),
    ("deformable_detr_r50_two_stage_50ep", 0.1),
    ("dab_deformable_detr_r50_50ep", 1),
    ("dn_dab_deformable_detr_r50_50ep", 1),
    ("deta_r50_12ep", 0.1),
]


@pytest.mark.parametrize("name, scaled", PLACES)
def test_only_some_slow_down_what_places_samples(name, scaled):
    cfg = load(f"coco/{name}")
    rates = group_rates(cfg)
    lr = cfg.optimizer.lr
    assert rates["rest"] == {lr} and rates["backbone"] == {round(lr / 10, 9)}
    assert rates["places"] == ({round(lr * scaled, 9)} if scaled else set())


@pytest.mark.parametrize(
    "name", [n for n in sorted(RECIPES) if n.startswith("toy/") or n[:4] == "coco" and "ep" in n]
)
def test_one_class_count_and_empty_images_stay(name):
    cfg = load(name, classes=7)
    model = built(cfg)
    assert type(model).__name__ == ARCHITECTURES[name.split("/")[1].split("_r50")[0]]
    assert model.heads.classes[0].out_features == 7 + model.heads.background
    assert cfg.dataloader.train.dataset.keep_empty is True
    noised = getattr(model.query_source, "denoising", None)
    assert (noised is not None) == ("dn_dab" in name)
    assert noised is None or noised.labels.num_embeddings == 8
    frozen = {n.split(".")[1] for n, p in model.backbone.named_parameters("x")
              if not p.requires_grad}  # fmt: skip
    assert frozen == (set() if name.startswith("toy/") else {"stem", "res2"})


@pytest.mark.parametrize("name", sorted(n for n in RECIPES if n.endswith("pct")))
def test_label_subsets_are_what_the_file_says(name):
    cfg = load(name)
    percent = name.rpartition("_")[2].removesuffix("pct")
    assert cfg.dataloader.train.dataset.subset == f"{percent}%"
    assert cfg.train.output_dir.endswith(f"{percent}pct")


def test_voc_subsets_are_siamese_detrs():
    cfg = load("voc/conditional_detr_r50_30pct", classes=20)
    assert cfg.dataloader.train.dataset.names == "voc_2012_trainval"
    assert cfg.model.query_source.num_queries == 100
    assert group_rates(cfg)["backbone"] == {5e-5}


def test_heads_only_trains_the_heads_alone():
    cfg = load("voc/detr_r50_heads_only", classes=20)
    model = built(cfg)
    freeze(model, cfg.train.freeze)
    cfg.optimizer.params.model = model
    learns = {id(p) for group in instantiate(cfg.optimizer).param_groups for p in group["params"]}
    names = {name.split(".")[0] for name, p in model.named_parameters() if id(p) in learns}
    assert names == {"heads"} and learns == {id(p) for p in model.heads.parameters()}


CONSTANTS = [  # spec of the originals: queries, widths of the feed-forward layers, dropout, eps, ce
    ("detr_r50_300ep", 100, 2048, 0.1, None, 1),
    ("conditional_detr_r50_50ep", 300, 2048, 0.1, 1e-5, 2),
    ("deformable_detr_r50_50ep", 300, 1024, 0.1, 1e-5, 2),
    ("dab_deformable_detr_r50_50ep", 300, 2048, 0.0, 1e-3, 1),
    ("dn_dab_deformable_detr_r50_50ep", 300, 2048, 0.0, 1e-3, 1),
    ("deta_r50_12ep", 900, 2048, 0.0, 1e-5, 1),
]


@pytest.mark.parametrize("name, queries, ffn, dropout, eps, ce", CONSTANTS)
def test_the_silent_differences(name, queries, ffn, dropout, eps, ce):
    cfg = load(f"coco/{name}").model
    source = cfg.proposals if "proposals" in cfg else cfg.query_source
    assert source.get("num_queries", source.get("num_proposals")) == queries
    for part in (cfg.encoder, cfg.decoder):
        assert (part.ffn_dim, part.dropout, part.num_layers) == (ffn, dropout, 6)
    assert eps is None or cfg.heads.eps == eps
    assert cfg.criterion.weights == {"ce": ce, "bbox": 5, "giou": 2}
    assert cfg.position.get("half_cell", False) == ("deformable" in name or "deta" in name)


HUNGARIAN = "_target_=d2_unsupdet.detectors.HungarianAssigner"
OVERRIDES = [
    ("detr_r50_300ep", ["model.backbone.stages.dilated=True"]),
    ("detr_r50_300ep", ["model.encoder.pre_norm=True"]),
    ("detr_r50_300ep", ["model.backbone.stages.depth=101"]),
    ("conditional_detr_r50_50ep", ["model.backbone.stages.dilated=True"]),
    ("deformable_detr_r50_50ep", ["model.backbone.stages.depth=18", "model.backbone.freeze_at=0"]),
    ("deformable_detr_r50_50ep", ["model.encoder.dim=128", "model.encoder.levels=5"]),
    ("deformable_detr_r50_single_scale_50ep", ["model.backbone.stages.dilated=True"]),
    ("dn_dab_deformable_detr_r50_50ep", ["model.query_source.denoising.groups=2"]),
    ("dn_dab_deformable_detr_r50_50ep", ["model.query_source.denoising=null"]),
    ("conditional_detr_r50_50ep", ["optimizer.params.rules.0.lr_factor=0.5"]),
    ("deta_r50_12ep", [f"model.criterion.assigner.{HUNGARIAN}"]),
    ("deta_r50_12ep", ["model.criterion.assigner.positive=0.5"]),
    ("deta_r50_12ep", ["model.criterion.assigner.balance=dynamic"]),
    ("deta_r50_12ep", ["model.criterion.assigner.per_object=8", "model.backbone.stages.depth=34"]),
    ("deta_r50_12ep", ["model.proposals.anchor_size=0.1", "model.proposals.anchor_growth=0.5"]),
    ("deta_r50_12ep", ["model.proposals.select.threshold=0.8", "model.postprocess.threshold=0.5"]),
]


@pytest.mark.parametrize("name, overrides", OVERRIDES)
def test_variants_are_overrides(name, overrides):
    assert isinstance(built(load(f"coco/{name}", *overrides)), detectors.DETR)


def test_your_own_labels_are_one_override(tmp_path):
    name = f"coco:{tmp_path}/train.json@{tmp_path}"
    cfg = load("coco/deformable_detr_r50_50ep", f"dataloader.train.dataset.names={name}")
    assert cfg.dataloader.train.dataset.names == name


def test_detas_baseline_is_deta_with_one_to_one_assignment():
    deta, baseline = built(load("coco/deta_r50_12ep")), built(load("coco/deta_r50_hungarian_50ep"))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (deta, baseline)]
    assert shapes[0] == shapes[1]
    for assigner in (baseline.criterion.assigner, baseline.criterion.encoder_assigner):
        assert isinstance(assigner, detectors.HungarianAssigner)
    for assigner in (deta.criterion.assigner, deta.criterion.encoder_assigner):
        assert isinstance(assigner, detectors.OverlapAssigner)


def test_lvis_counts_300_detections():
    cfg = load("lvis/deta_r50_24ep")
    assert cfg.model.postprocess.detections == 300
    assert cfg.dataloader.test.dataset.names == "lvis_v1_val"


@pytest.mark.parametrize("recipe", ["deta_r50_24ep", "deta_r50_hungarian_24ep"])
def test_lvis_has_a_federated_loss(recipe):
    federated = to_plain(load(f"lvis/{recipe}").model.criterion.federated)
    assert federated == {"_target_": "d2_unsupdet.detectors.federated.FederatedClasses"}
