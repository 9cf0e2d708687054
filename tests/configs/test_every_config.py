"""Every file of configs/: its schedule in steps of the real data sets, and that it can be built."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from d2_unsupdet.data import subsets
from d2_unsupdet.data.catalog import split_names
from d2_unsupdet.engine.config import load_config, resolve_class_count, scored_set, to_plain
from d2_unsupdet.engine.known_targets import check_known
from d2_unsupdet.engine.schedule import to_iterations

CONFIGS = Path(__file__).parents[2] / "configs"
PARTS = {"quickstart/models", "quickstart/detector"}  # of the quickstart's recipes
SIZES = {
    "imagenet_train": 1_281_167,
    "imagenet100_train": 126_689,
    "coco_2017_train": 118_287,
    "coco_2017_train_unlabeled": 118_287,
    "voc_2007_trainval": 5_011,
    "voc_2012_trainval": 11_540,
    "lvis_v1_train": 100_170,
    "cityscapes_fine_instance_seg_train": 2_975,
    "cityscapes_fine_sem_seg_train": 2_975,
    "coco_stuff27_train": 49_629,  # of PiCIE's curated list
    "cityscapes27_train": 21_523,  # test and train_extra
    "toy_unlabeled": 2_000,
    "toy_train": 2_000,
    "toy_sem_seg_train": 2_000,
}
WITH_OBJECTS = {"coco_2017_train": 117_266}  # what is left of those where empty ones are


@dataclass(frozen=True)
class Schedule:
    images: int
    batch: int
    rate: float
    steps: int
    warmup: int
    drops: str


def read_table() -> dict[str, Schedule]:
    found, folder = {}, ""
    for line in Path(__file__).with_name("schedules.txt").read_text().splitlines():
        if line.startswith("["):
            folder = line.strip("[]")
        elif line and not line.startswith("#"):
            name, images, batch, rate, steps, warmup, drops = line.split(maxsplit=6)
            numbers = int(images), int(batch), float(rate), int(steps), int(warmup)
            assert f"{folder}/{name}" not in found
            found[f"{folder}/{name}"] = Schedule(*numbers, drops)
    return found


def every(suffix: str) -> set[str]:
    files = (p.relative_to(CONFIGS).with_suffix("") for p in CONFIGS.rglob(f"*{suffix}"))
    return {p.as_posix() for p in files if p.parts[0] != "common"} - PARTS


TABLE = read_table()
FILES = sorted([f"{n}.py" for n in every(".py")] + [f"{n}.yaml" for n in every(".yaml")])
# A second each to read, and other tests train them.
LATER = [f for f in FILES if any(part in f for part in ("/toy", "/weights/", "quickstart/"))]


@cache
def load(file: str) -> DictConfig:
    return load_config(str(CONFIGS / file))


def images_of(cfg: DictConfig) -> int:
    """As `get_dataset` counts them: a share of all names together, or those with objects."""
    dataset = cfg.dataloader.train.dataset
    names = [name.partition(":")[0] for name in split_names(dataset.names)]
    if dataset.get("subset") is not None:
        return subsets.parse(dataset.subset).size(sum(SIZES[name] for name in names))
    sizes = SIZES if dataset.get("keep_empty", True) else SIZES | WITH_OBJECTS
    return sum(sizes[name] for name in names)


def changes(factor: Callable[[int], float], first: int, last: int) -> Iterator[int]:
    """The steps after `first` at which a falling staircase takes another value."""
    if factor(first) == factor(last):
        return
    if last - first == 1:
        yield last
        return
    middle = (first + last) // 2
    yield from changes(factor, first, middle)
    yield from changes(factor, middle, last)


def quickly(files: list[str], later: list[str]) -> list:
    return [pytest.param(f, marks=pytest.mark.slow if f in later else ()) for f in files]


def test_every_recipe_has_a_line_and_every_yaml_a_twin():
    assert set(TABLE) == every(".py"), "tests/configs/schedules.txt and configs/ differ"
    assert every(".yaml") <= every(".py")


@pytest.mark.parametrize("file", quickly(FILES, LATER))
def test_schedule_in_steps(file):
    cfg, want = load(file), TABLE[file.rpartition(".")[0]]
    batch = cfg.dataloader.train.total_batch_size
    images = images_of(cfg)
    steps = to_iterations(cfg.train.max_iter, size=images, batch=batch)
    rate = cfg.optimizer.lr
    assert (images, batch, rate, steps) == (want.images, want.batch, want.rate, want.steps)

    multiplier = instantiate(cfg.lr_multiplier)

    def factor(step: int) -> float:
        return multiplier(step / steps)  # as the trainer asks

    rising = [factor(step) for step in range(want.warmup + 1)]
    assert rising == sorted(set(rising)) and (want.drops == "cosine" or rising[-1] == 1)
    if want.drops == "cosine":
        assert factor(steps // 2) == pytest.approx(0.5, abs=0.01) and factor(steps - 1) < 1e-3
        return
    found = list(changes(factor, want.warmup, steps - 1))
    drops = [] if want.drops == "constant" else [int(drop) for drop in want.drops.split()]
    # YAML rounds an epoch's end to a step, and Detectron2's schedules look 1e-6 of a run ahead.
    assert found == [pytest.approx(drop, abs=1 + 1e-6 * steps) for drop in drops]
    assert [factor(drop) for drop in found] == pytest.approx([0.1, 0.01][: len(found)])


def test_every_run_saves_scores_and_refreshes_before_its_end():
    for file in sorted(set(FILES) - set(LATER)):
        cfg, want = load(file), TABLE[file.rpartition(".")[0]]
        periods = [cfg.train.checkpointer.period, cfg.train.refresh.period]
        if scored_set(cfg) is not None:
            periods.append(cfg.train.eval_period)
        for period in filter(None, periods):
            steps = to_iterations(period, size=want.images, batch=want.batch)
            assert steps <= want.steps, (file, period)


def test_every_recipe_saves_a_config_that_loads_again():
    """What a run leaves calls only what a YAML file may."""
    for file in sorted(set(FILES) - set(LATER)):
        check_known(to_plain(load(file)), file)


@pytest.mark.slow
@pytest.mark.parametrize("file", LATER)
def test_every_small_recipe_saves_a_config_that_loads_again(file):
    check_known(to_plain(load(file)), file)


def test_no_two_recipes_write_into_one_folder():
    """A .yaml may write where its .py does."""
    folders = [load(f).train.output_dir for f in FILES if f.endswith(".py") and f not in LATER]
    assert len(set(folders)) == len(folders), {f for f in folders if folders.count(f) > 1}


METHODS = {
    "moco_v2": "MoCoV2",
    "simsiam": "SimSiam",
    "dupr": "DUPR",
    "dense_siam": "DenseSiam",
    "dense_siam_segmentation": "DenseSiamSegmentor",
    "up_detr": "UPDETR",
    "detreg": "DETReg",
    "siamese_detr": "SiameseDETR",
    "join_det": "JoinDet",
}
DETECTORS = {  # the first that the name of a file holds
    "dn_dab_deformable_detr": "DNDABDeformableDETR",
    "dab_deformable_detr": "DABDeformableDETR",
    "deformable_detr": "DeformableDETR",
    "conditional_detr": "ConditionalDETR",
    "detr": "DETR",
    "deta": "DETA",
    "rcnn": "GeneralizedRCNN",
    "retinanet": "RetinaNet",
    "fcn": "SemanticSegmentor",
}
BUILT = [  # the new among the models of the papers; the rest is slow
    "finetune/cityscapes/fcn_r50_90k.py",
    "finetune/coco/conditional_detr_r50_100q_50ep.py",
    "finetune/coco/detr_r50_pre_norm_150ep.py",
    "finetune/coco/mask_rcnn_r50_c4_18k.yaml",
    "finetune/lvis/deta_r50_hungarian_24ep.py",
    "finetune/voc/deformable_detr_r50_single_scale_10ep.py",
    "pretrain/dense_siam/imagenet100_r50_50ep.py",
    "pretrain/detreg/coco_conditional_detr_r50_50ep.py",
    "pretrain/detreg/coco_deformable_detr_r50_single_scale_50ep.py",
    "pretrain/join_det/imagenet100_deformable_detr_r50_50ep.py",
    "pretrain/siamese_detr/coco_dn_dab_deformable_detr_r50_120k.py",
    "pretrain/up_detr/imagenet100_deformable_detr_r50_50ep.py",
]


@pytest.mark.parametrize("file", quickly(FILES, sorted(set(FILES) - set(BUILT))))
def test_it_builds_what_its_name_says_and_trains_all_of_it(file, monkeypatch):
    cfg = deepcopy(load(file))
    resolve_class_count(cfg, [str(i) for i in range(7)], "seven", strict=False)
    cfg = OmegaConf.create(to_plain(cfg), flags={"allow_objects": True})
    # Detectron2's YAML moves what it builds, and what has no values cannot be moved.
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    folder, _, name = file.removesuffix(".yaml").removesuffix(".py").rpartition("/")
    if folder.startswith("pretrain"):
        method = folder.removesuffix("/weights").removeprefix("pretrain/")
        assert type(model).__name__ == METHODS[method]
    detector = getattr(model, "detector", model)
    kinds = [kind for part, kind in DETECTORS.items() if part in name]
    if kinds and not folder.startswith("quickstart"):
        assert type(detector).__name__ == kinds[0]

    cfg.optimizer.params.model = model
    groups = instantiate(cfg.optimizer).param_groups
    learns = [id(p) for group in groups for p in group["params"]]
    assert sorted(learns) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert max(group["lr"] for group in groups) == cfg.optimizer.lr
    for part, loader in cfg.dataloader.items():
        if part != "evaluator" and loader is not None:
            assert callable(instantiate(loader.mapper))
