"""What a user may have meant by a key, a target or a file that does not exist."""

import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from omegaconf import DictConfig

from d2_unsupdet.errors import nearest

# Settings of a ResNet that full-size recipes name and small ones spell out block by block.
STAGE_KEYS = ("depth", "dilated")
SUFFIXES = (".py", ".yaml", ".yml")
_SECTION = re.compile(r"^(model|dataloader|train)\b.*=|import .*\b(model|dataloader|train)\b", re.M)


def of_key(cfg: DictConfig, part: str, valid: Iterable[str]) -> str:
    """For a key whose `part` is not among the `valid` names of its section."""
    model = cfg.get("model")
    if part == "num_queries" and isinstance(model, DictConfig) and model.get("proposals"):
        return (
            " The queries of a two-stage detector are its proposals: set "
            "model.proposals.num_proposals."
        )
    return nearest(part, valid)


def of_index(part: str) -> str:
    """For a name where a list stands."""
    if part not in STAGE_KEYS:
        return ""
    return (
        f" The small ResNet of this config is spelt out block by block; '{part}' needs a full-size "
        "recipe, as in configs/finetune/coco."
    )


def of_target(target: str) -> str:
    """The nearest public name of the longest part of `target` that is a module."""
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module = _module(".".join(parts[:count]))
        if module is not None:
            names = [name for name in dir(module) if not name.startswith("_")]
            close = nearest(parts[count], names)
            return close.replace("'", f"'{module.__name__}.", 1)
    return ""


def why_not(target: str) -> str:
    """What keeps `target` from being imported, in few words and on one line."""
    parts = target.split(".")
    for count in range(len(parts) - 1, -1, -1):
        above, below = ".".join(parts[:count]), ".".join(parts[: count + 1])
        if count and _module(above) is None:
            continue
        try:
            importlib.import_module(below)
        except ModuleNotFoundError as error:
            if error.name == below:
                return f"{above} has no '{parts[count]}'" if above else f"there is no '{below}'"
            return f"{below} needs the module '{error.name}', which is not installed"
        except Exception as error:  # an import runs code, which can raise anything
            said = " ".join(str(error).split())
            return f"{below} fails with {type(error).__name__}: {said}".rstrip(".")
    return f"{target} is no class or function"


def of_config(path: str) -> str:
    """For a config file that does not exist: one of its folder, or of the recipes."""
    file = Path(path)
    if file.name == "config.yaml" and not file.parent.is_dir():
        above = file.parent.parent
        runs = [str(p.parent) for p in above.glob("*/config.yaml")] if above.is_dir() else []
        return f" There is no run in '{file.parent}'.{nearest(str(file.parent), runs)}"
    beside = [p for p in file.parent.glob("*") if p.is_file()] if file.parent.is_dir() else []
    recipes = [p for p in Path("configs").rglob("*") if p.suffix in SUFFIXES]
    return nearest(path, {str(p) for p in [*recipes, *filter(_is_config, beside)]})


def _is_config(path: Path) -> bool:
    """A Python file is one if it sets a section of a config; scripts lie beside configs too."""
    if path.suffix != ".py":
        return path.suffix in SUFFIXES
    text = path.read_text(errors="replace")
    return _SECTION.search(text) is not None and "__main__" not in text


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception:  # an import runs code, which can raise anything
        return None
