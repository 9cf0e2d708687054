"""Configs in Detectron2's lazy shape, with the checks it lacks.

`.py` files are LazyConfigs. A run saves its resolved config as plain YAML, which loads safely and
can be passed back as `--config-file`. An override must name a key that exists or a parameter of the
`_target_`; Detectron2 v0.6 would add anything else in silence.
"""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from d2_unsupdet.errors import UserError, nearest

SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def load_config(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load a `.py` LazyConfig, a saved `.yaml` of one, or a Detectron2 `.yaml`, then override.

    Args:
        path: the config file.
        overrides: `key=value` pairs; for Detectron2's YAML also its `KEY VALUE` form.
    """
    file = Path(path)
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() else Path("configs")
        files = [str(p) for p in folder.rglob("*") if p.suffix in (".py", ".yaml")]
        raise UserError(f"Config file '{path}' does not exist.{nearest(path, files)}")
    if file.suffix == ".py":
        cfg = _load_python(file)
    elif file.suffix in (".yaml", ".yml"):
        plain = _load_yaml(file)
        if "train" not in plain or "model" not in plain:
            from d2_unsupdet.engine.yaml_config import lazy_from_yaml

            return lazy_from_yaml(path, overrides)
        cfg = OmegaConf.create(plain, flags={"allow_objects": True})
    else:
        raise UserError(f"Config file '{path}' is neither .py nor .yaml.")
    missing = [name for name in SECTIONS if name not in cfg]
    if missing:
        raise UserError(f"Config file '{path}' does not define {', '.join(missing)}.")
    recipe = cfg.train.max_iter
    for override in overrides:
        apply_override(cfg, override)
    # The recipe's own length, for the message that says a shorter run scales the schedule.
    cfg.train.recipe_length = cfg.train.get("recipe_length") or recipe
    return cfg


def _load_python(file: Path) -> DictConfig:
    try:
        cfg = LazyConfig.load(str(file))
    except (SyntaxError, ImportError, KeyError, NameError) as error:
        raise UserError(f"Config file '{file}' cannot be read: {error}.") from error
    return DictConfig(
        {k: v for k, v in cfg.items() if k in SECTIONS}, flags={"allow_objects": True}
    )


def _load_yaml(file: Path) -> dict:
    try:
        plain = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        where = str(error).replace("\n", " ")
        raise UserError(f"Config file '{file}' is not plain YAML: {where}.") from error
    if not isinstance(plain, dict):
        raise UserError(f"Config file '{file}' holds no keys.")
    return plain


def apply_override(cfg: DictConfig, override: str) -> None:
    """Set `a.b.c=value` in place; the value is read as Hydra reads it."""
    key, separator, text = override.partition("=")
    if not separator:
        raise UserError(f"Override '{override}' is not of the form key=value.")
    check_key(cfg, key)
    OmegaConf.update(cfg, key, _parse_value(text), merge=True)


def _parse_value(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text  # a path or name that Hydra's grammar does not know is meant literally


def check_key(cfg: DictConfig, key: str) -> None:
    """Raise a sentence with the nearest valid name unless the key can be set."""
    node: Any = cfg
    parts = key.split(".")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth]) or "the config"
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                raise UserError(f"'{key}': {where} is a list of {len(node)}; '{part}' is no index.")
            node = node[int(part)]
        elif isinstance(node, DictConfig):
            if part in node:
                node = node[part] if OmegaConf.is_missing(node, part) is False else None
                continue
            valid = set(map(str, node.keys())) - {"_target_"} | _parameters(node)
            if "**" in valid or (part in valid and depth == len(parts) - 1):
                return
            raise UserError(
                f"Unknown config key '{key}': {where} has no '{part}'.{nearest(part, valid)}"
            )
        else:
            raise UserError(f"Unknown config key '{key}': {where} is a value, not a section.")


def _parameters(node: DictConfig) -> set[str]:
    """What the node's target can be called with; '**' stands for any keyword."""
    if "_target_" not in node:
        return set()
    target = node["_target_"]
    target = locate(target) if isinstance(target, str) else target
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return set()
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


def resolve_class_count(cfg: DictConfig, class_names: Sequence[str], dataset: str) -> None:
    """Make the data the one source of the class count: fill in "auto", refuse another number."""
    for path, node in nodes(cfg.model, "model"):
        if "num_classes" not in node or OmegaConf.is_interpolation(node, "num_classes"):
            continue
        if node.num_classes == "auto":
            node.num_classes = len(class_names)
        elif node.num_classes != len(class_names):
            raise UserError(
                f"{path}.num_classes={node.num_classes} contradicts data set '{dataset}', which "
                f"has {len(class_names)} classes; leave the key out to use the data's number."
            )
