"""What can fail on bad input fails here, as one sentence, before any process starts work.

The defaults of `train` are its schema: a value must be of the kind of its default.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from d2_unsupdet.checkpoint.files import check_exists
from d2_unsupdet.checkpoint.published import located
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.box_checks import check_boxes
from d2_unsupdet.engine.config import is_box_pretext, nodes, resolve_class_count, scored_set
from d2_unsupdet.engine.defaults import TRAIN
from d2_unsupdet.engine.mapper_checks import check_mapper
from d2_unsupdet.engine.model_checks import check_model
from d2_unsupdet.engine.probe_hook import check_probe
from d2_unsupdet.engine.schedule import to_iterations
from d2_unsupdet.engine.scored_weights import scores_own
from d2_unsupdet.engine.trainer import AMP_DTYPES
from d2_unsupdet.engine.values import INFINITY, check_value
from d2_unsupdet.engine.yaml_config import check_classes, check_yaml_model
from d2_unsupdet.errors import UserError

# Steps, epochs or images; a period of 0 means never.
LENGTHS = {
    "train.max_iter",
    "train.eval_period",
    "train.checkpointer.period",
    "train.knn_probe.period",
    "train.refresh.period",
}

# The smallest and the largest value; every other number may be 0 or more.
RANGES: dict[str, tuple[float, float]] = {
    "train.accumulate": (1, INFINITY),
    "train.log_period": (1, INFINITY),
    "train.precise_bn.num_iter": (1, INFINITY),
    "train.init.min_coverage": (0, 1),
    "train.ema.decay": (0, 1),
    "train.max_bad_images": (0, 1),
    "train.knn_probe.k": (1, INFINITY),
    "dataloader.train.total_batch_size": (1, INFINITY),
}
OTHER_CLASSES = (  # what a trained detector can be scored on
    "score it on data of the same classes, or without any by "
    "dataloader.evaluator.class_agnostic=true"
)
# What a value looks like whose default is None; text where nothing stands here.
OPTIONAL: dict[str, Any] = {"train.init.allow_missing": ["heads.*"]}


def prepare(
    cfg: DictConfig,
    *,
    eval_only: bool = False,
    resume: bool = False,
    weights_chosen: bool = True,
    processes: int = 1,
) -> DictConfig:
    """Check the config against the data, the disk and the machine; fill in what the data knows."""
    loaders = cfg.dataloader
    _check_section(cfg.train, TRAIN, "train")
    _check_device(cfg.train.device)
    if cfg.train.amp.dtype not in AMP_DTYPES:
        raise UserError(f"train.amp.dtype='{cfg.train.amp.dtype}' is not one of bf16, fp16.")
    scored = scored_set(cfg) is not None
    if eval_only and not scored:
        raise UserError(f"--eval-only needs dataloader.test; {_no_test_set(cfg)}")
    if not eval_only and loaders.get("train") is None:
        raise UserError("Training needs dataloader.train; only --eval-only goes without.")
    used = ["test"] if eval_only else ["train", "test"] if scored else ["train"]
    names = [n for part in used for n in catalog.split_names(loaders[part].dataset.names)]
    _check_data(cfg, used)
    if scored and (eval_only or is_box_pretext(cfg.model)):
        _check_labels(cfg.dataloader.test.dataset.names)
    check_model(cfg.model)
    if not eval_only and cfg.train.knn_probe.period:
        check_probe(cfg.train.knn_probe)
    if "cfg_text" in cfg.model:
        check_yaml_model(cfg.model.cfg_text)
        _needs_labels(partial(check_classes, cfg.model, names))
    elif any("num_classes" in node for _, node in nodes(cfg.model)):
        _resolve_classes(cfg, used, names)
    for part in [*used, "refresh"] if not eval_only else used:
        if loaders.get(part) is not None and "mapper" in loaders[part]:
            check_mapper(loaders[part].mapper, f"dataloader.{part}.mapper")
    if not (eval_only and scores_own(cfg, resume=resume, chosen=weights_chosen)):
        _check_initial(cfg.train.init_checkpoint)
    if not eval_only:
        _check_training(cfg, resume, processes)
    return cfg


def _no_test_set(cfg: DictConfig) -> str:
    if cfg.dataloader.get("test") is not None:
        return (
            "this config leaves it open: give a labelled data set that is scored without its "
            "classes, dataloader.test.dataset.names=coco:ANNOTATIONS.json@IMAGES or a known name."
        )
    if is_box_pretext(cfg.model):
        return (
            "this config has none: take the recipe's .py file, or add **proposals() of "
            "configs/common/data/proposals.py to its dataloader."
        )
    return "a pretraining config has none."


def _resolve_classes(cfg: DictConfig, used: Sequence[str], names: Sequence[str]) -> None:
    """Images that are trained on without their labels say nothing about classes."""
    if is_box_pretext(cfg.model):
        _resolve_without_classes(cfg, used)
        return
    agnostic = is_class_agnostic(cfg)
    # Scored without classes, a detector learns its classes from its training data alone.
    known = used[:1] if agnostic else used
    datasets = [cfg.dataloader[part].dataset for part in known]
    labelled = [
        name for d in datasets if d.get("labels", True) for name in catalog.split_names(d.names)
    ]
    if labelled:
        _check_same_classes(cfg, datasets)
        classes = _needs_labels(partial(catalog.class_names, labelled))
        strict = not agnostic or "train" in used
        options = {} if "train" in used else {"fix": OTHER_CLASSES}
        resolve_class_count(cfg, classes, ", ".join(labelled), strict=strict, **options)
        return
    for path, node in nodes(cfg.model, "model"):
        if node.get("num_classes") == "auto":
            raise UserError(
                f"{path}.num_classes='auto' takes the number from a labelled data set, but "
                f"'{', '.join(names)}' is read without labels; write a number."
            )


def is_class_agnostic(cfg: DictConfig) -> bool:
    """Whether the evaluator looks at boxes and scores alone."""
    evaluator = cfg.dataloader.get("evaluator")
    return isinstance(evaluator, DictConfig) and bool(evaluator.get("class_agnostic", False))


def _resolve_without_classes(cfg: DictConfig, used: Sequence[str]) -> None:
    """A pretext's detector knows one class, object, whatever its data sets know."""
    for _, node in nodes(cfg.model):
        if "num_classes" in node and node["num_classes"] == "auto":
            node.num_classes = 1
    if "test" not in used:
        return
    if not is_class_agnostic(cfg):
        raise UserError(
            "A pretraining run knows no classes, so its detector is scored without them: set "
            "dataloader.evaluator.class_agnostic=true, or leave dataloader.test out."
        )
    if cfg.train.best_metric == TRAIN["best_metric"]:
        cfg.train.best_metric = "bbox_agnostic/AP"


def _check_data(cfg: DictConfig, used: Sequence[str]) -> None:
    for part in used:
        try:
            catalog.check(cfg.dataloader[part].dataset.names)
        except UserError as error:
            if part == "train" or len(used) == 1:
                raise
            raise UserError(
                f"{error}\nThis is the evaluation set: other data to train on need "
                "dataloader.test.dataset.names too."
            ) from error


def _check_labels(names: Any) -> None:
    """A test set without classes has nothing to compare answers with."""
    try:
        catalog.class_names(names)
    except UserError as error:
        if " has no labels" not in str(error):
            raise
        raise UserError(
            f"dataloader.test.dataset.names={names} is scored and needs labels, which it has not: "
            "give a labelled data set, such as coco:ANNOTATIONS.json@IMAGES."
        ) from error


def _needs_labels(ask: Callable[[], Any]) -> Any:
    """What `ask` finds out about classes; a data set that has none is no fault of its own."""
    try:
        return ask()
    except UserError as error:
        if " has no labels" not in str(error):
            raise
        raise UserError(f"This config needs labels: {error}") from error


def _check_same_classes(cfg: DictConfig, datasets: Sequence[Any]) -> None:
    if len(datasets) < 2 or not datasets[0].get("labels", True):
        return
    names = [d.names for d in datasets]
    train = _needs_labels(partial(catalog.class_names, names[0]))
    _check_labels(names[1])
    test = catalog.class_names(names[1])
    if train != test:
        raise UserError(
            f"dataloader.train.dataset.names={names[0]} has {len(train)} classes, "
            f"dataloader.test.dataset.names={names[1]} has {len(test)}"
            f"{' others' if len(train) == len(test) else ''} "
            f"({catalog.classes_apart(train, test)}): set both to data of the same classes."
        )


def _check_section(section: Any, defaults: Mapping[str, Any], path: str) -> None:
    for name, default in defaults.items():
        key = f"{path}.{name}"
        if OmegaConf.is_missing(section, name) or name not in section:
            raise UserError(f"{key} has no value; its default is {default!r}.")
        value = section[name]
        if key in LENGTHS:
            if value != 0 or key == "train.max_iter" or isinstance(value, bool):
                to_iterations(value, size=1, batch=1, key=key)
        elif default is None:
            if value is not None:
                _check_value(key, value, OPTIONAL.get(key, ""))
        else:
            _check_value(key, value, default)
            if isinstance(default, Mapping):
                _check_section(value, default, key)


def _check_value(key: str, value: Any, like: Any) -> None:
    check_value(key, value, like, RANGES.get(key, (0, INFINITY)))


def _check_device(name: str) -> None:
    if name == "auto":
        return
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"train.device='{name}' is no device; use auto, cpu or cuda.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"train.device='{name}': PyTorch finds {torch.cuda.device_count()} CUDA device(s) "
            "here; use auto or cpu."
        )


def _check_initial(path: str) -> None:
    if "://" in path:
        raise UserError(
            f"train.init_checkpoint='{path}' is a URL; nothing is downloaded here: fetch the file "
            "and pass its path."
        )
    if path:
        try:
            check_exists(located(path))
        except UserError as error:
            raise UserError(f"train.init_checkpoint={path}: {error}") from error


def _check_training(cfg: DictConfig, resume: bool, processes: int) -> None:
    if not resume:
        _check_fresh(Path(cfg.train.output_dir))
    _check_numbers(cfg.dataloader.train, "dataloader.train", total_batch_size=16, num_workers=4)
    _check_numbers(cfg.optimizer, "optimizer", lr=0.02, weight_decay=0.0001, momentum=0.9)
    batch = cfg.dataloader.train.total_batch_size
    parts = processes * cfg.train.accumulate
    if batch % parts:
        raise UserError(
            f"dataloader.train.total_batch_size={batch} cannot be shared by {processes} "
            f"process(es) in {cfg.train.accumulate} micro-batch(es); use a multiple of {parts}."
        )
    check_boxes(cfg, resume=resume, processes=processes)


def _check_fresh(output: Path) -> None:
    """A checkpoint without the tag that names it is still a run that must not be overwritten."""
    found = sorted(output.glob("model_*.pth"))
    tag = output / "last_checkpoint"
    if tag.exists() or found:
        name = tag.read_text().strip() if tag.exists() else found[-1].name
        raise UserError(
            f"'{output}' already holds a run ({name}); go on with --resume, or choose another "
            "train.output_dir."
        )


def _check_numbers(node: DictConfig, path: str, **examples: float) -> None:
    for name, like in examples.items():
        if node.get(name) is not None:
            _check_value(f"{path}.{name}", node[name], like)
