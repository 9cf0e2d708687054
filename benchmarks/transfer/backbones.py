"""Backbones: two scales, and the chains of pretraining and finetuning of a command line."""

import argparse
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from d2_unsupdet.engine.config import load_config

from .runs import RANDOM, ROOT, Run, short_name

METHODS = (RANDOM, "moco_v2", "simsiam", "dupr", "dense_siam")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A network and its recipes.

    Args:
        pretrain: config of each method.
        changes: overrides of a method's config.
        finetune: config of the detector.
        size: pixels of a view, unless asked for otherwise.
        edges: target -> short and long side that the detector sees; None leaves the recipe's.
        workers: loading processes of a run; None leaves the recipe's.
        probed: side at which the sensitivity is measured.
        note: in the table's heading.
        rates: where the rates of the pretrainings come from, under the table.
        scaled: whether a recipe's rate is multiplied by the batch over the recipe's own.
    """

    pretrain: dict[str, str]
    changes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    finetune: str
    size: int
    edges: dict[str, tuple[int, int] | None]
    workers: int | None
    probed: int
    note: str = ""
    rates: str
    scaled: bool


SCALES = {
    "quickstart": Scale(
        pretrain={
            "moco_v2": "configs/quickstart/pretrain_moco.py",
            "simsiam": "configs/quickstart/pretrain_simsiam.py",
            "dupr": "configs/quickstart/pretrain_dupr.py",
            "dense_siam": "configs/quickstart/pretrain_dense_siam.py",
        },
        finetune="configs/quickstart/finetune.py",
        size=96,
        # of bccd 320x240 pixels with cells of about 50 and platelets of 15
        edges={"toy": None, "bccd": (120, 160)},
        workers=0,
        probed=128,
        rates="those of the quickstart recipes, set by hand, the same at any batch",
        scaled=False,
    ),
    "resnet50": Scale(
        pretrain={
            "moco_v2": "configs/pretrain/moco_v2/imagenet_r50_200ep.py",
            "simsiam": "configs/pretrain/simsiam/imagenet_r50_100ep.py",
            "dupr": "configs/pretrain/dupr/imagenet_r50_200ep.py",
            "dense_siam": "configs/pretrain/dense_siam/imagenet_r50_200ep.py",
        },
        # Banks below the number of images, and a momentum for hundreds of steps.
        changes={
            "moco_v2": ("model.queue_size=1024", "model.momentum=0.99"),
            "dupr": (
                "model.queue_size=1024",
                "model.patch_queue_size=4096",
                "model.momentum=0.99",
            ),
        },
        finetune="configs/finetune/voc/faster_rcnn_r50_c4_24k.py",
        size=224,
        edges={"toy": (256, 256), "bccd": (240, 320)},
        workers=None,
        probed=224,
        note="ResNet-50, ",
        rates="each method's recipe's, times the batch over the recipe's batch",
        scaled=True,
    ),
}


def build_chains(options: argparse.Namespace, targets: dict[str, list[str]]) -> list[list[Run]]:
    """For each seed and method its pretraining and what follows; seeds outermost, so that a partial
    table compares equals."""
    scale = SCALES[options.scale]
    quiet = ["train.pictures=0", "train.log_period=50"]
    scoring = ["train.eval_period=0", "train.checkpointer.period=200"]
    if scale.workers is not None:
        quiet.append(f"dataloader.train.num_workers={scale.workers}")
        scoring.append(f"dataloader.test.num_workers={scale.workers}")
    budget = (
        f"{scale.note}{options.steps} steps of {options.batch} images at {options.size} px from "
        f"{short_name(options.unlabeled)}; finetuned {options.finetune_steps} steps on "
        f"{options.labels} labelled images"
    )
    chains = []
    for seed in options.seeds:
        for method in options.methods:
            common: dict[str, Any] = {"method": method, "seed": seed, "budget": budget}
            common["rates"] = scale.rates
            chain = []
            if method != RANDOM:
                rate = options.lr.get(method)
                if rate is None and scale.scaled:
                    rate = scaled_rate(scale.pretrain[method], options.batch)
                overrides = [
                    f"dataloader.train.dataset.names={options.unlabeled}",
                    f"dataloader.train.mapper.size={options.size}",
                    f"dataloader.train.total_batch_size={options.batch}",
                    f"train.max_iter={options.steps}",
                    f"train.seed={seed}",
                    *scale.changes.get(method, ()),
                    *([f"optimizer.lr={rate}"] if rate is not None else []),
                ]
                chain.append(
                    Run(
                        kind="pretrain",
                        config=scale.pretrain[method],
                        overrides=tuple(overrides),
                        quiet=(*quiet, "train.checkpointer.period=200"),
                        **common,
                    )
                )
            for target, changes in targets.items():
                overrides = [
                    *changes,
                    f"dataloader.train.dataset.subset={options.labels}@seed{seed}+every_class",
                    f"train.max_iter={options.finetune_steps}",
                    f"train.seed={seed}",
                ]
                run = Run(
                    kind="finetune",
                    target=target,
                    config=scale.finetune,
                    overrides=tuple(overrides),
                    quiet=(*quiet, *scoring),
                    start=chain[0] if method != RANDOM else None,
                    **common,
                )
                chain.append(run)
            chains.append(chain)
    return chains


@cache
def scaled_rate(config: str, batch: int) -> float:
    """A recipe's rate by the linear rule: proportional to the batch (arXiv:1706.02677)."""
    tree = load_config(str(ROOT / config), [])
    own = tree.dataloader.train.total_batch_size
    return float(f"{tree.optimizer.lr * batch / own:.6g}")
