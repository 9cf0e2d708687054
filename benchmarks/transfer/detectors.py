"""Whole detectors: the chains of pretraining, scoring, finetuning and heads-only finetuning."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .runs import FOUND, RANDOM, Run, short_name
from .targets import resized

METHODS = (RANDOM, "up_detr", "detreg", "siamese_detr", "join_det")
CONFIGS = "configs/quickstart"
FINETUNE = f"{CONFIGS}/finetune_detector.py"
SCRATCH = f"{CONFIGS}/scratch_detector.py"  # another rate
RATES = (
    "1e-3 for every pretraining; finetuning and scratch each have the best of a grid on held-out "
    "embedded images (docs/results.md), heads alone 1e-3"
)
QUIET = ("train.pictures=0", "train.log_period=50")
STORE = "dataloader.train.mapper.source.path"
# What is pretrained on, and the targets that it is for.
GROUPS = {"toy": ("toy",), "grocery": ("bccd", "cards")}


def recipe(method: str) -> str:
    return f"{CONFIGS}/pretrain_{method}.py"


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is pretrained on and scored.

    Args:
        pretrain: group -> data set without labels.
        boxes: group -> store of its boxes.
        targets: target -> overrides of a finetuning.
        edges: target -> short and long side of its images.
    """

    pretrain: dict[str, str]
    boxes: dict[str, Path]
    targets: dict[str, list[str]]
    edges: dict[str, tuple[int, int]]


def build_chains(options: argparse.Namespace, data: Data) -> list[list[Run]]:
    """For each seed, group of data and method its pretraining and what follows; seeds outermost."""
    chains = []
    for seed in options.seeds:
        for group, targets in GROUPS.items():
            present = [target for target in targets if target in data.targets]
            if present and group in data.pretrain:
                chains += [chain(options, data, seed, group, present, m) for m in options.methods]
    return chains


def chain(
    options: argparse.Namespace,
    data: Data,
    seed: int,
    group: str,
    targets: list[str],
    method: str,
) -> list[Run]:
    """The runs of one method."""
    budget = (
        f"{options.steps} steps of {options.batch} images at 96 px from "
        f"{short_name(data.pretrain[group])}; finetuned {options.finetune_steps} steps, "
        f"heads alone {options.heads_steps}, on {options.labels} labelled images"
    )
    common: dict[str, Any] = {"method": method, "seed": seed, "budget": budget, "rates": RATES}
    made: list[Run] = []
    start = None
    if method != RANDOM:
        start = pretraining(options, data, group, common)
        made.append(start)
    for target in targets:
        if start is not None:
            made.append(scoring(data, target, start, common))
        for kind in ("finetune", "heads"):
            made.append(finetuning(options, data, target, kind, start, common))
    return made


def pretraining(options: argparse.Namespace, data: Data, group: str, common: dict[str, Any]) -> Run:
    method = common["method"]
    overrides = [
        f"dataloader.train.dataset.names={data.pretrain[group]}",
        f"dataloader.train.total_batch_size={options.batch}",
        f"train.max_iter={options.steps}",
        f"train.seed={common['seed']}",
        f"optimizer.lr={options.lr.get(method, 1e-3)}",
    ]
    # Scored afterwards, on each target; the last look at a run's end is kept short.
    quiet = ["dataloader.test.dataset.names=toy_val:images=8", "train.eval_period=0"]
    store = data.boxes.get(group) if reads_boxes(method) else None
    if method == "join_det":  # from the same boxes as the others, renewed at half time
        overrides.append(f"train.refresh.period={max(1, options.steps // 2)}")
    if store is not None:
        key = "train.refresh.start" if method == "join_det" else STORE
        quiet.append(f"{key}={store}")
    return Run(
        kind="pretrain",
        target=group,
        config=recipe(method),
        overrides=tuple(overrides),
        quiet=(*quiet, "train.checkpointer.period=100", *QUIET),
        boxes=store,
        **common,
    )


def reads_boxes(method: str) -> bool:
    """UP-DETR draws its own at random."""
    return method not in (RANDOM, "up_detr")


def scoring(data: Data, target: str, start: Run, common: dict[str, Any]) -> Run:
    """AP and AR of boxes without classes, of the pretrained detector as it is."""
    test = [text for text in data.targets[target] if text.startswith("dataloader.test")]
    test += resized("test", *data.edges[target])
    overrides = (*test, f"train.seed={common['seed']}")
    return Run(
        kind=FOUND, target=target, config=start.config, overrides=overrides, start=start, **common
    )


def finetuning(
    options: argparse.Namespace,
    data: Data,
    target: str,
    kind: str,
    start: Run | None,
    common: dict[str, Any],
) -> Run:
    heads = kind == "heads"
    steps = options.heads_steps if heads else options.finetune_steps
    method = common["method"]
    overrides = [
        *data.targets[target],
        *resized("train", *data.edges[target]),
        *resized("test", *data.edges[target]),
        f"dataloader.train.dataset.subset={options.labels}@seed{common['seed']}+every_class",
        f"train.max_iter={steps}",
        f"train.seed={common['seed']}",
    ]
    if method in options.finetune_lr:
        overrides.append(f"optimizer.lr={options.finetune_lr[method]}")
    if heads:
        overrides.append("train.freeze=['*','!heads.*']")
    looks = 0 if heads else max(1, steps // 5)
    return Run(
        kind=kind,
        target=target,
        config=SCRATCH if method == RANDOM and not heads else FINETUNE,
        overrides=tuple(overrides),
        quiet=(f"train.eval_period={looks}", "train.checkpointer.period=50", *QUIET),
        start=start,
        **common,
    )
