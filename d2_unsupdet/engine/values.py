"""One value of a config against an example of its kind and a range."""

from collections.abc import Mapping
from typing import Any

from omegaconf import ListConfig

from d2_unsupdet.errors import UserError

INFINITY = float("inf")
_KINDS: list[tuple[type | tuple[type, ...], str]] = [
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "text"),
    ((list, ListConfig), "a list"),
    (Mapping, "a section"),
]


def check_value(
    key: str, value: Any, like: Any, limits: tuple[float, float] = (0, INFINITY)
) -> None:
    """Refuse a value that is not of the kind of `like`, or a number out of its limits."""
    types, kind = next((types, kind) for types, kind in _KINDS if isinstance(like, types))
    if types is float:
        types = (int, float)
    wrong = isinstance(value, bool) and types is not bool
    if wrong or not isinstance(value, types):
        if isinstance(like, Mapping):
            raise UserError(f"{key}={value!r} is not a section with {', '.join(like)}.")
        raise UserError(f"{key}={value!r} is not {kind}; write for example {like!r}.")
    if isinstance(value, (int, float)):
        low, high = limits
        if not low <= value <= high or value == INFINITY:
            text = f"at least {low}" if high == INFINITY else f"from {low} to {high}"
            raise UserError(f"{key}={value!r} is out of range: it must be {text}.")
