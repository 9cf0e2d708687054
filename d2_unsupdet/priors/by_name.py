"""Box sources by the names that tools take: `NAME:key=value,key=value` or `module:Class`."""

import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import yaml

from d2_unsupdet.errors import UserError, nearest
from d2_unsupdet.priors.found import BoxSource

NAMES: Mapping[str, str] = {
    "random": "d2_unsupdet.priors.random_boxes:RandomBoxes",
    "selective-search": "d2_unsupdet.priors.selective_search:SelectiveSearch",
    "edge-boxes": "d2_unsupdet.priors.edge_boxes:EdgeBoxes",
    "eigen": "d2_unsupdet.priors.eigen_attention:EigenBoxes",
}

HINTS: Mapping[str, str] = {  # what a value that must be given may be
    "weights": "a backbone's file or a run's folder, such as output/pretrain/run/export.safetensors"
}

_NEXT = re.compile(r",(?=\s*\w+\s*=)")  # a comma inside [0.06,0.75] separates no arguments
_BARE_LIST = re.compile(r"[-+.\deE]+(\s*,\s*[-+.\deE]+)+")


def source_by_name(text: str) -> BoxSource:
    """Build a source.

    >>> source_by_name("random:count=100")
    >>> source_by_name("selective-search:ranked=contrast,side=[0.06,0.75]")
    >>> source_by_name("my_package.boxes:Finder:side=32")

    Args:
        text: a name or `module:Class`, then a colon and its arguments if it has any; values are
            read as YAML.
    """
    name, _, rest = text.partition(":")
    target = NAMES.get(name)
    if target is None:
        class_name, _, rest = rest.partition(":")
        target = f"{name}:{class_name}"
        if not class_name or "=" in class_name:
            raise UserError(
                f"The box source '{name}' is not known.{nearest(name, NAMES)} Use one of "
                f"{', '.join(NAMES)}, or module:Class."
            )
    return _build(_locate(target), _arguments(rest, text), text)


def _locate(target: str) -> Any:
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"The box source '{target}' cannot be imported: {error}.") from error


def _arguments(text: str, whole: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for part in filter(None, _NEXT.split(text)):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"'{part}' of the box source '{whole}' is not of the form key=value.")
        if _BARE_LIST.fullmatch(value.strip()):
            raise UserError(
                f"'{part}' of the box source '{whole}' is a list: write {key}=[{value.strip()}]."
            )
        arguments[key.strip()] = yaml.safe_load(value)
    return arguments


def _build(cls: Any, arguments: dict[str, Any], text: str) -> BoxSource:
    known = inspect.signature(cls).parameters
    for key in arguments:
        if key not in known:
            raise UserError(f"The box source '{text}' has no '{key}'.{nearest(key, known)}")
    for key, value in known.items():
        named = value.kind in (value.KEYWORD_ONLY, value.POSITIONAL_OR_KEYWORD)
        if named and value.default is value.empty and key not in arguments:
            more = "," if arguments else ":"
            hint = f" ({HINTS[key]})" if key in HINTS else ""
            raise UserError(
                f"The box source '{text}' needs {key}: write {text}{more}{key}=VALUE{hint}."
            )
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"The box source '{text}' cannot be built: {error}.") from error
