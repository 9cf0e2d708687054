"""Detectron2's YAML configs, run by the same engine: the CfgNode becomes a lazy config.

The model node keeps the whole CfgNode as text, so that whatever Detectron2 or an extension reads
from it while building the model is there, and the result can be saved and passed back.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler
from omegaconf import DictConfig
from torch import nn

from d2_unsupdet.config import add_unsupdet_config
from d2_unsupdet.data import (
    DetectionMapper,
    PairedViewMapper,
    PriorMapper,
    SiamesePairMapper,
    build_test_loader,
    build_train_loader,
    catalog,
    get_dataset,
)
from d2_unsupdet.data.siamese_boxes import SharedBoxes
from d2_unsupdet.detectors.yaml_settings import ARCHITECTURES
from d2_unsupdet.engine.defaults import TRAIN
from d2_unsupdet.engine.known_targets import check_plain
from d2_unsupdet.engine.model_checks import check_yaml_values
from d2_unsupdet.engine.optim import parameter_groups
from d2_unsupdet.engine.schedule import to_iterations
from d2_unsupdet.engine.yaml_semantic import best_score, is_semantic, semantic_loaders
from d2_unsupdet.errors import UserError, nearest
from d2_unsupdet.evaluation import build_evaluator
from d2_unsupdet.priors import RandomBoxes, StoredBoxes

# Where each architecture of Detectron2 and of ours keeps its class count, and of which classes.
CLASS_KEYS = {
    "RetinaNet": ("RETINANET", "thing"),
    "GeneralizedRCNN": ("ROI_HEADS", "thing"),
    "PanopticFPN": ("ROI_HEADS", "thing"),
    "SemanticSegmentor": ("SEM_SEG_HEAD", "stuff"),
    **dict.fromkeys(ARCHITECTURES, ("DETR", "thing")),
}

BOX_PRETEXTS = ("UPDETR", "DETReg", "SiameseDETR")

# Keys that Detectron2's own trainer reads and this engine does not.
UNREAD = (
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
    "SOLVER.REFERENCE_WORLD_SIZE",
    "DATALOADER.SAMPLER_TRAIN",
    "TEST.AUG.ENABLED",
    "VIS_PERIOD",
    "MODEL.LOAD_PROPOSALS",
    "MODEL.KEYPOINT_ON",
)


def model_from_yaml(cfg_text: str, num_classes: int | str | None = None) -> nn.Module:
    """The model of a dumped CfgNode.

    Args:
        cfg_text: the CfgNode as YAML.
        num_classes: of the data, in place of the CfgNode's; "auto" until a run asks its data.
    """
    cfg = _parse(cfg_text)
    if isinstance(num_classes, int):
        section, _ = CLASS_KEYS[cfg.MODEL.META_ARCHITECTURE]
        cfg.MODEL[section].NUM_CLASSES = num_classes
    return build_model(cfg)


def _parse(cfg_text: str) -> CfgNode:
    cfg = get_cfg()
    add_unsupdet_config(cfg)
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(cfg_text)))
    # Devices are the engine's business: it moves the built model.
    cfg.MODEL.DEVICE = "cpu"
    keys = cfg.MODEL.RESNETS
    if (
        keys.DEPTH in (18, 34)
        and keys.RES2_OUT_CHANNELS == get_cfg().MODEL.RESNETS.RES2_OUT_CHANNELS
    ):
        keys.RES2_OUT_CHANNELS = 64  # blocks without a bottleneck; Detectron2 asserts it
    return cfg


def lazy_from_yaml(path: str, overrides: Sequence[str]) -> DictConfig:
    """A YAML file and its overrides as a lazy config.

    Args:
        path: a Detectron2 YAML; `_BASE_` works, Python tags do not.
        overrides: `KEY VALUE` pairs or `KEY=VALUE` for the CfgNode; lower-case `train.x=y` keys
            reach the engine's own settings.
    """
    from d2_unsupdet.engine.config import apply_override

    cfg = get_cfg()
    add_unsupdet_config(cfg)
    upper, lower = _split(overrides)
    try:
        cfg.merge_from_file(path, allow_unsafe=False)
        for key, _ in upper:
            _check_key(cfg, key)
        cfg.merge_from_list([part for pair in upper for part in pair])
    except (KeyError, ValueError, AssertionError, yaml.YAMLError) as error:
        message = str(error.args[0] if error.args else error).replace("\n", " ")
        raise UserError(f"Config '{path}': {message}.") from error
    # Its values become arguments of a lazy config: none may be a call of its own.
    check_plain(cfg, f"Config '{path}'")
    lazy = to_lazy(cfg)
    if not _binds_class_count(path, cfg.MODEL.META_ARCHITECTURE, dict(upper), lower):
        lazy.model.num_classes = "auto"
    for override in lower:
        apply_override(lazy, override)
    return lazy


def _binds_class_count(
    path: str, architecture: str, upper: dict[str, str], lower: Sequence[str]
) -> bool:
    """Whether somebody chose NUM_CLASSES: a default did not, a file did for its own data alone."""
    section, _ = CLASS_KEYS.get(architecture, (None, None))
    if section is None or f"MODEL.{section}.NUM_CLASSES" in upper:
        return True
    if "DATASETS.TRAIN" in upper or "DATASETS.TEST" in upper:
        return False
    if any(text.split("=")[0].endswith("dataset.names") for text in lower):
        return False
    stated = CfgNode.load_yaml_with_base(path).get("MODEL", {}).get(section) or {}
    return "NUM_CLASSES" in stated


def _split(overrides: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    upper, lower, rest = [], [], list(overrides)
    while rest:
        item = rest.pop(0)
        if "=" in item:
            key, _, value = item.partition("=")
            if key.split(".")[0].isupper():
                upper.append((key, value))
            else:
                lower.append(item)
        elif rest:
            upper.append((item, rest.pop(0)))
        else:
            raise UserError(f"Override '{item}' has no value.")
    return upper, lower


def _check_key(cfg: CfgNode, key: str) -> None:
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            names = node.keys() if isinstance(node, CfgNode) else ()
            raise UserError(f"Unknown config key '{key}': no '{part}'.{nearest(part, names)}")
        node = node[part]


def to_lazy(cfg: CfgNode) -> DictConfig:
    """Translate what the engine owns: data, optimizer, schedule, run settings."""
    solver = cfg.SOLVER
    _check_unread(cfg)
    to_iterations(solver.MAX_ITER, size=1, batch=1, key="SOLVER.MAX_ITER")
    architecture = _architecture(cfg.MODEL.META_ARCHITECTURE)
    pretext = hasattr(architecture, "export")
    # A method that keeps a part at its first rate says which: SimSiam its predictor.
    fixed = getattr(architecture, "fixed_rate", None)
    content = {
        "model": L(model_from_yaml)(cfg_text=cfg.dump()),
        "dataloader": _loaders(cfg, pretext),
        "optimizer": _optimizer(solver, fixed),
        "lr_multiplier": _multiplier(solver),
        "train": _train(cfg, pretext),
    }
    return DictConfig(content, flags={"allow_objects": True})


def _optimizer(solver: CfgNode, fixed: str | None) -> Any:
    rules = [{"match": fixed, "fixed_lr": True}] if fixed else []
    for rule in solver.LR_FACTORS:
        if [type(x) for x in rule] not in ([str, float], [str, int]):
            raise UserError(
                f"SOLVER.LR_FACTORS has {rule!r}; write a pattern of parameter names and a factor, "
                "['^backbone', 0.1]."
            )
        rules.append({"match": rule[0], "lr_factor": rule[1]})
    shared = {
        "params": L(parameter_groups)(
            base_lr="${..lr}",
            weight_decay="${..weight_decay}",
            norm_weight_decay=solver.WEIGHT_DECAY_NORM,
            bias_weight_decay=solver.WEIGHT_DECAY_BIAS,
            rules=rules,
        ),
        "lr": solver.BASE_LR,
        "weight_decay": solver.WEIGHT_DECAY,
    }
    if solver.OPTIMIZER == "AdamW":
        return L(torch.optim.AdamW)(**shared, betas=(0.9, 0.999))
    if solver.OPTIMIZER == "SGD":
        momentum = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
        return L(torch.optim.SGD)(**shared, **momentum)
    raise UserError(f"SOLVER.OPTIMIZER='{solver.OPTIMIZER}' is not one of SGD, AdamW.")


def _architecture(name: str) -> type[nn.Module]:
    if name not in META_ARCH_REGISTRY:
        known = [found for found, _ in META_ARCH_REGISTRY]
        raise UserError(f"MODEL.META_ARCHITECTURE='{name}' is not known.{nearest(name, known)}")
    return META_ARCH_REGISTRY.get(name)


def _check_unread(cfg: CfgNode) -> None:
    defaults = get_cfg()
    for key in UNREAD:
        value, default = _value(cfg, key), _value(defaults, key)
        if value != default:
            raise UserError(f"{key}={value!r} has no effect here; leave it at {default!r}.")


def _value(cfg: CfgNode, key: str) -> Any:
    """None where this version of Detectron2 does not have the key."""
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, CfgNode) else None
    return node


def check_classes(model: DictConfig, names: Sequence[str]) -> None:
    """Fill in the data's class count, or refuse another; for architectures of Detectron2's own.

    Args:
        model: the node of `model_from_yaml`.
        names: the data sets that the run uses, whatever the CfgNode says.
    """
    keys = _parse(model.cfg_text).MODEL
    section, kind = CLASS_KEYS.get(keys.META_ARCHITECTURE, (None, None))
    if section is None:
        return
    classes = catalog.class_names(names, kind)
    if model.get("num_classes") == "auto":
        model.num_classes = len(classes)
    key, count = f"MODEL.{section}.NUM_CLASSES", keys[section].NUM_CLASSES
    fix = "leave it out and the data give the number"
    if "num_classes" in model:
        key, count, fix = "model.num_classes", model.num_classes, "use data of the same classes"
    if count != len(classes):
        raise UserError(
            f"{key}={count} contradicts data set '{', '.join(names)}', which has {len(classes)} "
            f"classes; {fix}."
        )


def check_yaml_model(cfg_text: str) -> None:
    """Refuse values of `MODEL` that no model can have."""
    check_yaml_values(_parse(cfg_text).MODEL)


def _multiplier(solver: CfgNode) -> Any:
    total = solver.MAX_ITER
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        schedule = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
    elif solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= total]
        schedule = L(MultiStepParamScheduler)(
            values=[solver.GAMMA**i for i in range(len(steps) + 1)],
            milestones=steps,
            num_updates=total,
        )
    else:
        raise UserError(
            f"SOLVER.LR_SCHEDULER_NAME='{solver.LR_SCHEDULER_NAME}' is not one of "
            "WarmupMultiStepLR, WarmupCosineLR."
        )
    if not solver.WARMUP_ITERS:
        return schedule
    return L(WarmupParamScheduler)(
        scheduler=schedule,
        warmup_length=min(solver.WARMUP_ITERS / total, 1.0),
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_method=solver.WARMUP_METHOD,
    )


def _train(cfg: CfgNode, pretext: bool) -> dict[str, Any]:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != "full_model":
        raise UserError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE='{clip.CLIP_TYPE}' clips each parameter alone; here "
            "gradients are clipped together: use 'full_model'."
        )
    train = copy.deepcopy(TRAIN)
    train |= {
        "output_dir": cfg.OUTPUT_DIR,
        "init_checkpoint": cfg.MODEL.WEIGHTS,
        "max_iter": cfg.SOLVER.MAX_ITER,
        "recipe_length": cfg.SOLVER.MAX_ITER,
        "seed": max(0, cfg.SEED),
        "device": "auto" if cfg.MODEL.DEVICE == "cuda" else cfg.MODEL.DEVICE,
        "cudnn_benchmark": cfg.CUDNN_BENCHMARK,
        "amp": {"enabled": cfg.SOLVER.AMP.ENABLED, "dtype": "fp16"},
        # A pretext has one key for the norms: that of its backbone speaks for the heads too.
        "sync_bn": pretext and cfg.MODEL.RESNETS.NORM == "SyncBN",
        "clip_grad_norm": clip.CLIP_VALUE if clip.ENABLED else 0.0,
        "eval_period": cfg.TEST.EVAL_PERIOD,
        "precise_bn": {
            "enabled": cfg.TEST.PRECISE_BN.ENABLED,
            "num_iter": cfg.TEST.PRECISE_BN.NUM_ITER,
        },
    }
    if cfg.MODEL.META_ARCHITECTURE in BOX_PRETEXTS:
        train["best_metric"] = "bbox_agnostic/AP"
        train["max_bad_images"] = 0.05  # images with too few boxes count
    if is_semantic(cfg):
        train["best_metric"] = best_score(cfg)
    train["checkpointer"]["period"] = cfg.SOLVER.CHECKPOINT_PERIOD
    return train


def _loaders(cfg: CfgNode, pretext: bool) -> dict[str, Any]:
    name = cfg.MODEL.META_ARCHITECTURE
    if name == "JoinDet":
        raise UserError(
            "JoinDet refreshes its boxes during a run, for which Detectron2's YAML has no place: "
            "take one of configs/pretrain/join_det/*.py."
        )
    if is_semantic(cfg):
        return semantic_loaders(cfg)
    if name not in BOX_PRETEXTS:
        mapper = L(PairedViewMapper)(size=cfg.INPUT.CROP.SIZE[0])
        return _unlabelled(cfg, mapper) if pretext else _detection(cfg)
    loaders = _unlabelled(cfg, _box_mapper(cfg, name))
    if cfg.DATASETS.TEST:
        tested = _detection(cfg)
        tested["evaluator"].class_agnostic = True
        loaders |= {part: tested[part] for part in ("test", "evaluator")}
    return loaders


def _box_mapper(cfg: CfgNode, name: str) -> Any:
    inputs, count = cfg.INPUT, cfg.INPUT.PRIORS.COUNT
    stored = L(StoredBoxes)(path=inputs.PRIORS.STORE) if inputs.PRIORS.STORE else None
    if name == "SiameseDETR":
        return L(SiamesePairMapper)(
            source=stored,
            short_edges=list(inputs.MIN_SIZE_TRAIN),
            max_size=inputs.MAX_SIZE_TRAIN,
            boxes=L(SharedBoxes)(count=count),
        )
    same = {"exactly": count} if name == "UPDETR" else {"least": 2}
    return L(PriorMapper)(
        source=stored or L(RandomBoxes)(count=count),
        augmentations=_train_augmentations(inputs),
        count=count,
        **same,
    )


def _unlabelled(cfg: CfgNode, mapper: Any) -> dict[str, Any]:
    return {
        "train": L(build_train_loader)(
            dataset=L(get_dataset)(names=list(cfg.DATASETS.TRAIN)),
            mapper=mapper,
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            seed="${train.seed}",
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )
    }


def _train_augmentations(inputs: CfgNode) -> list[Any]:
    resize = L(T.ResizeShortestEdge)(
        short_edge_length=list(inputs.MIN_SIZE_TRAIN),
        max_size=inputs.MAX_SIZE_TRAIN,
        sample_style=inputs.MIN_SIZE_TRAIN_SAMPLING,
    )
    flip = []
    if inputs.RANDOM_FLIP != "none":
        horizontal = inputs.RANDOM_FLIP == "horizontal"
        flip = [L(T.RandomFlip)(horizontal=horizontal, vertical=not horizontal)]
    if not inputs.CROP.ENABLED:
        return [resize, *flip]
    crop = L(T.RandomCrop)(crop_type=inputs.CROP.TYPE, crop_size=list(inputs.CROP.SIZE))
    if not inputs.CROP.SHORT_EDGES and inputs.CROP.PROB == 1:
        return [crop, resize, *flip]
    # The order of the DETR family: the same draws as configs/common/data/detr.py.
    if inputs.CROP.SHORT_EDGES:
        edges = list(inputs.CROP.SHORT_EDGES)
        first = L(T.ResizeShortestEdge)(short_edge_length=edges, sample_style="choice")
        crop = L(T.AugmentationList)(augs=[first, crop])
    return [*flip, L(T.RandomApply)(tfm_or_aug=crop, prob=inputs.CROP.PROB), resize]


def _detection(cfg: CfgNode) -> dict[str, Any]:
    inputs, workers = cfg.INPUT, cfg.DATALOADER.NUM_WORKERS
    test_augmentations = [
        L(T.ResizeShortestEdge)(
            short_edge_length=inputs.MIN_SIZE_TEST, max_size=inputs.MAX_SIZE_TEST
        )
    ]
    loaders: dict[str, Any] = {
        "train": L(build_train_loader)(
            dataset=L(get_dataset)(
                names=list(cfg.DATASETS.TRAIN),
                keep_empty=not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
                sizes=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            ),
            mapper=L(DetectionMapper)(
                is_train=True,
                augmentations=_train_augmentations(inputs),
                image_format=inputs.FORMAT,
                use_instance_mask=cfg.MODEL.MASK_ON,
                instance_mask_format=inputs.MASK_FORMAT,
                recompute_boxes=cfg.MODEL.MASK_ON and inputs.CROP.ENABLED,
            ),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            seed="${train.seed}",
            num_workers=workers,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        )
    }
    if cfg.DATASETS.TEST:
        if len(cfg.DATASETS.TEST) > 1:
            raise UserError(f"DATASETS.TEST={cfg.DATASETS.TEST}: one test set a run, please.")
        loaders["test"] = L(build_test_loader)(
            dataset=L(get_dataset)(names=cfg.DATASETS.TEST[0]),
            mapper=L(DetectionMapper)(
                is_train=False, augmentations=test_augmentations, image_format=inputs.FORMAT
            ),
            num_workers=workers,
        )
        loaders["evaluator"] = L(build_evaluator)(
            dataset_name="${dataloader.test.dataset.names}",
            output_dir="${train.output_dir}/evaluation",
        )
    return loaders
