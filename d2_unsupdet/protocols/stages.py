"""A row as commands: boxes, pretraining, finetunings, a probe. Nothing runs here.

Pretrainings lie in `<output>/pretrain/<recipe>` and serve every row that begins with them; what
belongs to a row lies in `<output>/<row>`. A shortened row has another output folder altogether.
"""

import copy
import hashlib
import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from d2_unsupdet.engine import config as engine_config
from d2_unsupdet.priors.store import PriorStore
from d2_unsupdet.protocols.options import Options, check, starting_file
from d2_unsupdet.protocols.rows import ROOT, Recipe, Row

RESULTS: Mapping[str, str] = {"tools/evaluate_boxes.py": "boxes.json"}  # of a tool, in its --out
LENGTHS = ("refresh.period", "checkpointer.period", "knn_probe.period")  # shrink with the run
COMMAND = "command.json"  # beside a stage's results: its identity, which made them
LINEAR_EPOCHS = 100  # of the protocol that the rows take
_SEED_OF = re.compile(r"^(train\.seed=|dataloader\.train\.dataset\.subset=.*@seed)\d+$")
_NUMBER = re.compile(r"[\d.]+(?:e\+?\d+)?")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command.

    Args:
        kind: boxes, pretrain, finetune or score.
        words: of the command, after `python`.
        folder: what it fills.
        data: data sets that must be there.
        seed: of a finetuning.
    """

    kind: str
    words: tuple[str, ...]
    folder: Path
    data: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def result(self) -> Path:
        """The file that says it is done, and holds its scores."""
        if self.kind != "score":
            return self.folder / "summary.json"
        return self.folder / RESULTS.get(self.words[0], f"{self.words[1]}.json")

    @property
    def identity(self) -> list[str]:
        """The words that change what comes out; processes and loading workers do not."""
        words = list(self.words)
        if "--num-gpus" in words:
            at = words.index("--num-gpus")
            del words[at : at + 2]
        return [word for word in words if ".num_workers=" not in word]

    @property
    def command(self) -> str:
        """As one would type it."""
        return f"python {shlex.join(self.words)}"


def plan(row: Row, options: Options) -> list[Stage]:
    """The row's commands in order."""
    check(row, options)
    stages: list[Stage] = []
    weights = starting_file(row.start, options)
    if options.pretrained:
        weights = options.pretrained
    elif row.pretrain:
        stages += _pretraining(row.pretrain, weights, options)
        weights = str(stages[-1].folder / "export.safetensors")
    folder = options.folder / row.id
    if row.tool:
        words = [word.format(weights=weights or "random", out=folder) for word in row.tool]
        words += _probe_length(words, options.scale)
        stages.append(Stage(kind="score", words=tuple(words), folder=folder, data=_named(words)))
    if row.finetune:
        for seed in options.seeds or row.seeds:
            stages.append(_finetuning(row.finetune, weights, seed, folder / f"s{seed}", options))
    return stages


def pretraining_folder(recipe: Recipe) -> str:
    """The recipe's name, and a hash of what is changed in it."""
    path = Path(recipe.config).with_suffix("")
    name = "_".join(path.parts[1:]).removeprefix("pretrain_")
    if not recipe.overrides:
        return name
    return f"{name}-{hashlib.sha256(repr(recipe.overrides).encode()).hexdigest()[:8]}"


def _pretraining(recipe: Recipe, weights: str, options: Options) -> list[Stage]:
    folder = options.folder / "pretrain" / pretraining_folder(recipe)
    changes = [*recipe.overrides, *options.of("pretrain")]
    cfg = _load(recipe.config, changes)
    stages, share = [], ""
    if recipe.boxes or cfg.dataloader.get("refresh") is not None:
        share = _share(cfg, options.scale)
    if recipe.boxes:
        stages.append(_boxes(recipe, cfg, share, options.folder / "boxes"))
        changes.append(f"dataloader.train.mapper.source.path={stages[0].folder}")
    if share:
        changes.append(f"dataloader.train.dataset.subset={share}")
    words = _training(recipe.config, cfg, changes, folder, weights, options, share)
    return [*stages, Stage(kind="pretrain", words=words, folder=folder, data=_data(cfg))]


def _share(cfg: DictConfig, scale: float) -> str:
    """Of a trial's images: boxes of all of them would take longer than the trial itself."""
    if scale >= 1 or cfg.dataloader.train.dataset.get("subset") is not None:
        return ""
    return f"{100 * scale:g}%@seed0"


def _boxes(recipe: Recipe, cfg: DictConfig, share: str, folder: Path) -> Stage:
    """The store that the config names if it is whole, else one of our own."""
    dataset = cfg.dataloader.train.dataset
    names, subset = str(dataset.names), share or dataset.get("subset")
    there = ROOT / str(cfg.dataloader.train.mapper.source.path)
    words = ["tools/extract_priors.py", "--dataset", names, "--source", recipe.boxes]
    name = there.name if subset is None else f"{there.name}_{subset}"
    if subset is not None:
        words += ["--subset", str(subset)]
    ours = folder / name
    store = there if has_boxes(there) and not has_boxes(ours) else ours
    return Stage(kind="boxes", words=(*words, "--out", str(store)), folder=store, data=(names,))


def has_boxes(store: Path) -> bool:
    """Whether an extraction ended there."""
    return store.is_dir() and 0 in PriorStore(store).generations


def _finetuning(recipe: Recipe, weights: str, seed: int, folder: Path, options: Options) -> Stage:
    changes = [*recipe.overrides, *options.of("finetune")]
    cfg = _load(recipe.config, changes)
    subset = str(cfg.dataloader.train.dataset.get("subset") or "")
    if subset and "@" not in subset and not subset.startswith("ids:"):
        changes.append(f"dataloader.train.dataset.subset={subset}@seed{seed}")
    changes.append(f"train.seed={seed}")
    words = _training(recipe.config, cfg, changes, folder, weights, options)
    return Stage(kind="finetune", words=words, folder=folder, data=_data(cfg), seed=seed)


def other_seeds(stages: Sequence[Stage]) -> list[Stage]:
    """Finished finetunings of this command for seeds that it does not name."""
    planned = {stage.seed: stage for stage in stages if stage.kind == "finetune"}
    if not planned:
        return []
    model = next(iter(planned.values()))
    found = []
    for result in sorted(model.folder.parent.glob("s*/summary.json")):
        folder, number = result.parent, result.parent.name.removeprefix("s")
        if not number.isdecimal() or int(number) in planned:
            continue
        words = tuple(_SEED_OF.sub(rf"\g<1>{number}", word) for word in model.words)
        words = (*words[:-1], f"train.output_dir={folder}")
        stage = Stage(
            kind="finetune", words=words, folder=folder, data=model.data, seed=int(number)
        )
        with suppress(OSError, ValueError):  # without a command nobody knows what made it
            if json.loads((folder / COMMAND).read_text()) == stage.identity:
                found.append(stage)
    return found


def _training(
    config: str,
    cfg: DictConfig,
    changes: list[str],
    folder: Path,
    weights: str,
    options: Options,
    share: str = "",
) -> tuple[str, ...]:
    words = ["train_net.py", "--config-file", config]
    if options.num_gpus > 1:
        words += ["--num-gpus", str(options.num_gpus)]
    if weights:
        words.append(f"train.init_checkpoint={weights}")
    if options.scale != 1:
        changes = [*changes, *_shortened(cfg, options.scale, of_share=bool(share))]
    return (*words, *changes, f"train.output_dir={folder}")


def _shortened(cfg: DictConfig, scale: float, *, of_share: bool) -> list[str]:
    """Lengths by the factor; milestones follow by themselves, and one evaluation at the end.

    Epochs of a share of the images are that much shorter already.
    """

    def scaled(length: Any) -> str:
        epochs = of_share and str(length).endswith(("epoch", "epochs"))
        return _scaled(length, 1.0 if epochs else scale)

    length = scaled(cfg.train.max_iter)
    found = [f"train.max_iter={length}", f"train.eval_period={length}"]
    for key in LENGTHS:
        section, name = key.split(".")
        value = cfg.train[section][name]
        if value:
            found.append(f"train.{key}={scaled(value)}")
    return found


def _scaled(length: Any, scale: float) -> str:
    """Steps stay whole; "12 epochs" and "1e6 images" keep their unit."""
    if isinstance(length, int):
        return str(max(1, round(length * scale)))
    return _NUMBER.sub(lambda found: f"{float(found[0]) * scale:g}", str(length), count=1)


def _probe_length(words: Sequence[str], scale: float) -> list[str]:
    """Of a linear probe, the only one with a length; the last --epochs counts."""
    if scale == 1 or "linear" not in words:
        return []
    whole = int(words[words.index("--epochs") + 1]) if "--epochs" in words else LINEAR_EPOCHS
    return ["--epochs", str(max(1, round(whole * scale)))]


def _load(config: str, changes: Sequence[str]) -> DictConfig:
    """To be read only: several rows of a command, and several looks at one, share it."""
    return _loaded(config, tuple(changes))


@cache
def _loaded(config: str, changes: tuple[str, ...]) -> DictConfig:
    log = logging.getLogger(engine_config.__name__)
    before = log.level
    log.setLevel(logging.ERROR)  # what it leaves out is said by the training that does so
    try:
        if not changes:
            return engine_config.load_config(str(ROOT / config))
        cfg = copy.deepcopy(_loaded(config, ()))  # a tenth of the time that reading it takes
        engine_config.apply_overrides(cfg, changes)
        return cfg
    finally:
        log.setLevel(before)


def _data(cfg: DictConfig) -> tuple[str, ...]:
    parts = (cfg.dataloader.train, cfg.dataloader.get("test"))
    names = [part.dataset.names for part in parts if part is not None]
    return tuple(str(name) for name in names if name is not None)


def _named(words: list[str]) -> tuple[str, ...]:
    options = ("--dataset", "--train-data", "--test-data")
    return tuple(word for option, word in zip(words, words[1:], strict=False) if option in options)
