"""Configs in Detectron2's lazy shape, with the checks it lacks.

`.py` files are LazyConfigs. A run saves its resolved config as plain YAML, which can be passed back
as `--config-file` and calls known parts only (`known_targets`). A key, of a file or an override,
must be one that a run knows or a parameter of the `_target_`; Detectron2 v0.6 would add anything
else in silence.
"""

import inspect
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from d2_unsupdet.engine import hints
from d2_unsupdet.engine.defaults import TRAIN
from d2_unsupdet.engine.known_targets import check_known
from d2_unsupdet.errors import UserError, nearest

logger = logging.getLogger(__name__)
# What recipes write as a reference and saved configs as a value.
LINKS = {
    "dataloader.train.seed": "${train.seed}",
    "dataloader.evaluator.dataset_name": "${dataloader.test.dataset.names}",
    "dataloader.evaluator.output_dir": "${train.output_dir}/evaluation",
}
SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def load_config(
    path: str, overrides: Sequence[str] = (), *, allow_unsafe: bool = False
) -> DictConfig:
    """Load a `.py` LazyConfig, a saved `.yaml` of one, or a Detectron2 `.yaml`, then override.

    Args:
        path: the config file.
        overrides: `key=value` pairs; for Detectron2's YAML also its `KEY VALUE` form.
        allow_unsafe: let a YAML file call anything; `.py` files and overrides always can.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"Config file '{path}' does not exist.{hints.of_config(path)}")
    if file.suffix == ".py":
        cfg = _load_python(file)
    elif file.suffix in (".yaml", ".yml"):
        plain = _load_yaml(file)
        if "train" not in plain or "model" not in plain:
            from d2_unsupdet.engine.yaml_config import lazy_from_yaml

            return lazy_from_yaml(path, overrides)
        if not allow_unsafe:
            check_known(plain, f"Config file '{path}'")
        cfg = _create(plain, file)
        _link(cfg)
    else:
        raise UserError(f"Config file '{path}' is neither .py nor .yaml.")
    missing = [name for name in SECTIONS if name not in cfg]
    if missing:
        raise UserError(f"Config file '{path}' does not define {', '.join(missing)}.")
    if not isinstance(cfg.train, DictConfig):
        raise UserError(f"Config file '{path}': train is a section, not {cfg.train!r}.")
    try:
        check_names(cfg)
    except UserError as error:
        raise UserError(f"Config file '{path}': {error}") from error
    cfg.train = OmegaConf.merge(TRAIN, cfg.train)  # a file names what it changes
    recipe = cfg.train.max_iter
    apply_overrides(cfg, overrides)
    # The recipe's own length, for the message that says a shorter run scales the schedule.
    cfg.train.recipe_length = cfg.train.get("recipe_length") or recipe
    return cfg


def _load_python(file: Path) -> DictConfig:
    try:
        cfg = LazyConfig.load(str(file))
    except UserError:
        raise
    except Exception as error:  # the file is a program: it can raise anything
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)
        ]
        where = f" (line {lines[-1]})" if lines else ""
        message = str(error).strip().splitlines() or [""]
        raise UserError(
            f"Config file '{file}' cannot be read: {type(error).__name__}{where}: {message[0]}."
        ) from error
    return DictConfig(
        {k: v for k, v in cfg.items() if k in SECTIONS}, flags={"allow_objects": True}
    )


def _load_yaml(file: Path) -> dict:
    try:
        plain = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        where = str(error).replace("\n", " ")
        raise UserError(f"Config file '{file}' is not plain YAML: {where}.") from error
    if not isinstance(plain, dict):
        raise UserError(f"Config file '{file}' holds no keys.")
    return plain


def _create(plain: dict, file: Path) -> DictConfig:
    try:
        return OmegaConf.create(plain, flags={"allow_objects": True})
    except (OmegaConfBaseException, RecursionError, ValueError) as error:
        message = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"Config file '{file}' cannot be read: {type(error).__name__}: {message}."
        ) from error


def _link(cfg: DictConfig) -> None:
    """Values that a saved config repeats follow an override again, as in the recipe it came from.

    Otherwise a run that is scored on another data set would be compared with the old one's labels.
    """
    for key, link in LINKS.items():
        path, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, path)
        if not isinstance(node, DictConfig) or name not in node:
            continue
        value = node[name]
        node[name] = link
        try:
            same = node[name] == value
        except OmegaConfBaseException:
            same = False
        if not same:
            node[name] = value


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Set several in order, in place, and look again at all names."""
    for override in overrides:
        apply_override(cfg, override)
    if overrides:
        check_names(cfg)  # an override can be a whole section


def apply_override(cfg: DictConfig, override: str) -> None:
    """Set `a.b.c=value` in place; the value is read as Hydra reads it."""
    key, separator, text = override.partition("=")
    if not separator:
        raise UserError(f"Override '{override}' is not of the form key=value.")
    check_key(cfg, key)
    OmegaConf.update(cfg, key, _parse_value(text), merge=True)
    path, _, last = key.rpartition(".")
    if last == "_target_":
        _drop_foreign(OmegaConf.select(cfg, path) if path else cfg, path)


def _drop_foreign(part: DictConfig, path: str) -> None:
    """Another part takes over: settings of the one before that it does not know go, said."""
    accepted = _parameters(part, path)
    if accepted is None or "**" in accepted:
        return
    foreign = [key for key in map(str, part.keys()) if key not in {*accepted, "_target_"}]
    for key in foreign:
        del part[key]
    if foreign:
        names = ", ".join(foreign)
        logger.warning("%s is now another part, which has no %s: left out.", path, names)


def _parse_value(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return text  # a path or name that Hydra's grammar does not know is meant literally
    return text if override.is_sweep_override() else override.value()  # `a,b` names two data sets


def check_key(cfg: DictConfig, key: str) -> None:
    """Raise a sentence with the nearest valid name unless the key can be set."""
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth]) or "the config"
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(
                    f"'{key}': {where} is a list of {len(node)}; '{part}' is no index."
                    f"{hints.of_index(part)}"
                )
            node = node[int(part)]
        elif isinstance(node, DictConfig):
            if part in node:
                node = node[part] if OmegaConf.is_missing(node, part) is False else None
                continue
            accepted = _parameters(node) or set()
            valid = set(map(str, node.keys())) - {"_target_"} | accepted
            if "**" in valid or (part in valid and depth == len(parts) - 1):
                return
            if part in valid:
                raise UserError(
                    f"Config key '{key}': '{part}' of {where} is not set in this config, so "
                    "nothing inside it can be; write the whole of it in a config file."
                )
            raise UserError(
                f"Unknown config key '{key}': {where} has no '{part}'."
                f"{hints.of_key(cfg, part, valid)}"
            )
        else:
            raise UserError(f"Unknown config key '{key}': {where} is a value, not a section.")


def check_names(cfg: DictConfig) -> None:
    """Raise a sentence with the nearest valid name for a key that nothing would read.

    `train` is compared with the defaults, a node with the signature of its `_target_`.
    """
    _check_section(cfg.train, {**TRAIN, "recipe_length": None}, "train")
    for path, node in nodes(cfg):
        accepted = _parameters(node, path)
        if accepted is None or "**" in accepted:
            continue
        for key in map(str, node.keys()):
            if key != "_target_" and key not in accepted:
                raise UserError(f"{path} has no '{key}'.{nearest(key, accepted)}")


def _check_section(section: Any, known: Mapping[str, Any], path: str) -> None:
    if not isinstance(section, DictConfig):
        return  # a wrong value, not a wrong name
    for key in map(str, section.keys()):
        if key not in known:
            raise UserError(f"{path} has no '{key}'.{nearest(key, known)}")
        if isinstance(known[key], Mapping):
            _check_section(section[key], known[key], f"{path}.{key}")


def _parameters(node: DictConfig, path: str = "a node") -> set[str] | None:
    """What the node's target can be called with; '**' stands for any keyword, None for unknown."""
    if "_target_" not in node:
        return None
    target = node["_target_"]
    if isinstance(target, str):
        try:
            target = locate(target)
        except Exception as error:  # an import runs code, which can raise anything
            raise UserError(
                f"{path}._target_='{target}' cannot be imported: {hints.why_not(target)}."
                f"{hints.of_target(target)}"
            ) from error
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return {"**"}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name for p in parameters if p.kind in named}


def to_plain(cfg: Any) -> Any:
    """Nested dicts and lists of plain values; callables become names."""
    if isinstance(cfg, (DictConfig, ListConfig)):
        try:
            cfg = OmegaConf.to_container(cfg, resolve=True)
        except OmegaConfBaseException as error:
            message = str(error).splitlines()[0]
            raise UserError(f"The config cannot be resolved: {message}.") from error
    if isinstance(cfg, dict):
        target = cfg.get("_target_")
        call = {"_target_": _name_of(target) if callable(target) else target} if target else {}
        return call | {key: to_plain(v) for key, v in cfg.items() if key != "_target_"}
    if isinstance(cfg, (list, tuple)):
        return [to_plain(value) for value in cfg]
    if isinstance(cfg, (str, int, float, bool)) or cfg is None:
        return cfg
    if hasattr(cfg, "__module__") and hasattr(cfg, "__qualname__"):
        return {"_target_": "detectron2.utils.registry.locate", "name": _name_of(cfg)}
    raise UserError(f"The config holds {cfg!r}, which no plain file can hold; use LazyCall.")


def _name_of(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def dump_config(cfg: Any) -> str:
    """The resolved config as YAML that loads safely."""
    return yaml.safe_dump(to_plain(cfg), sort_keys=False, width=100)


def nodes(cfg: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every dict node of the config with its dotted path, parents first."""
    if isinstance(cfg, DictConfig):
        yield path, cfg
        keys: Sequence[Any] = list(cfg.keys())
    elif isinstance(cfg, ListConfig):
        keys = range(len(cfg))
    else:
        return
    for key in keys:
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            yield from nodes(cfg[key], f"{path}.{key}" if path else str(key))


def resolve_class_count(
    cfg: DictConfig,
    class_names: Sequence[str],
    dataset: str,
    *,
    strict: bool = True,
    fix: str = "leave the key out, or set it to auto, to use the data's number",
) -> None:
    """Make the data the one source of the class count: fill in "auto", refuse another number.

    A model whose classes are clusters (`free_class_count`) may have any number of them, and one
    that is only scored without classes (`strict=False`) too.
    """
    for path, node in nodes(cfg.model, "model"):
        if "num_classes" not in node or OmegaConf.is_interpolation(node, "num_classes"):
            continue
        if node.num_classes == "auto":
            node.num_classes = len(class_names)
        elif strict and node.num_classes != len(class_names) and not _free_count(node):
            raise UserError(
                f"{path}.num_classes={node.num_classes} contradicts data set '{dataset}', which "
                f"has {len(class_names)} classes; {fix}."
            )


def scored_set(cfg: DictConfig) -> DictConfig | None:
    """`dataloader.test`, unless there is none or it waits for `dataset.names` to be given."""
    test = cfg.dataloader.get("test")
    if test is None:
        return None
    dataset = test.get("dataset")
    waits = isinstance(dataset, DictConfig) and "names" in dataset and dataset.names is None
    return None if waits else test


def is_box_pretext(model: DictConfig) -> bool:
    """Whether `model` pretrains a detector, whose classes no data set tells."""
    return hasattr(target_of(model), "export") and "detector" in model


def _free_count(node: DictConfig) -> bool:
    return bool(getattr(target_of(node), "free_class_count", False))


def target_of(node: DictConfig) -> Any:
    """What the node calls, None for a node that calls nothing."""
    target = node.get("_target_")
    return locate(target) if isinstance(target, str) else target
