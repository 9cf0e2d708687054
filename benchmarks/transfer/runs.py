"""One run of a benchmark: a call of `train_net.py`, known by the hash of what it computes."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from d2_unsupdet.engine.config import load_config, to_plain
from d2_unsupdet.engine.defaults import TRAIN

ROOT = Path(__file__).resolve().parents[2]
RANDOM = "random"
FOUND = "found"  # the kind of a run that scores a pretrained detector as it is

# Where a run lies, how fast it loads and how often it looks do not decide what comes out.
IRRELEVANT = {"num_workers", "output_dir", "eval_period", "log_period", "pictures", "checkpointer"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of `train_net.py`.

    Args:
        kind: "pretrain", "finetune", "heads" (only they are trained) or "found" (nothing is).
        method: whose weights it starts from.
        seed: of the run.
        config: path of the config.
        overrides: `key=value`, all that decides the result.
        quiet: `key=value` that do not decide it (loading workers, periods).
        budget: the row group of the table.
        rates: where the rates of the budget come from.
        target: data set of a finetuning, or the group of targets of a pretraining.
        start: the pretraining whose export is loaded.
        boxes: store of the boxes that a pretraining learns from; its hash stands in the ledger.
    """

    kind: str
    method: str
    seed: int
    config: str
    overrides: tuple[str, ...]
    quiet: tuple[str, ...] = ()
    budget: str = ""
    rates: str = ""
    target: str = ""
    start: "Run | None" = None
    boxes: Path | None = None

    @property
    def scored(self) -> bool:
        return self.kind != "pretrain"

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.kind, self.target, self.method, f"seed{self.seed}")))

    def key(self) -> str:
        """Name and config hash: a changed recipe is another run."""
        return f"{self.name}-{self.digest[:10]}"

    @cached_property
    def config_tree(self) -> dict[str, Any]:
        """The resolved config. Detectron2's loader is for one thread: see `Benchmark.work`."""
        return to_plain(load_config(str(ROOT / self.config), self.overrides))

    @cached_property
    def digest(self) -> str:
        """Hash of the resolved config, and of the pretraining's for a finetuning."""
        # Only what differs from the defaults: a new option of `train` changes no old hash.
        train = {k: v for k, v in self.config_tree["train"].items() if v != TRAIN.get(k)}
        cfg = _without({**self.config_tree, "train": train}, IRRELEVANT)
        before = self.start.digest if self.start else ""
        text = json.dumps(cfg, sort_keys=True, default=str)
        return hashlib.sha256((text + before).encode()).hexdigest()

    @property
    def learning_rate(self) -> float:
        return float(self.config_tree["optimizer"]["lr"])


def _without(node: Any, names: set[str]) -> Any:
    if isinstance(node, dict):
        return {k: _without(v, names) for k, v in node.items() if k not in names}
    return [_without(v, names) for v in node] if isinstance(node, list) else node


def short_name(name: str) -> str:
    """A data set by its name, a folder by its last two parts: tables travel, paths do not."""
    prefix, colon, path = name.partition(":")
    return f"{prefix}:{'/'.join(Path(path).parts[-2:])}" if colon and "/" in path else name
