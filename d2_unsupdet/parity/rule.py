"""Weights that need no download: each tensor is a function of its official name and shape."""

import hashlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


def values(key: str, shape: Sequence[int], scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """The float32 values of one tensor; norms are near the identity, matrices keep variance."""
    seed = zlib.crc32(key.encode("utf-8")) & 0xFFFFFFFF
    normal = np.random.RandomState(seed).standard_normal(tuple(shape))
    if key.endswith("running_var"):
        result = 1 + 0.1 * np.abs(normal)
    elif key.endswith("running_mean"):
        result = 0.1 * normal
    elif len(shape) == 1 and key.endswith("weight"):
        result = 1 + 0.1 * normal
    elif len(shape) <= 1:
        result = 0.1 * normal
    else:
        result = normal / np.sqrt(np.prod(shape[1:]))
    return (result * scale + offset).astype(np.float32)


def official_state(manifest: Mapping[str, Any]) -> State:
    """Every floating-point tensor of a manifest's `state_dict`, under its official name.

    Of tensors with several names the last name in sorted order gives the values.
    """
    entries = {k: e for k, e in manifest["state_dict"].items() if "float" in e["dtype"]}
    last = {name: max(group) for group in manifest.get("alias_groups", []) for name in group}
    exceptions = manifest.get("weight_rule_exceptions", [])
    made: State = {}
    for name in sorted(entries):
        key = last.get(name, name)
        if key not in made:
            shape = entries[name]["shape"]
            made[key] = torch.from_numpy(values(_bare(key), shape, *_exception(key, exceptions)))
        made[name] = made[key]
    return made


def _bare(key: str) -> str:
    return key.rpartition(":")[2]  # "transformer:enc_output.bias" names its owner before the colon


def _exception(key: str, exceptions: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    scale, offset = 1.0, 0.0
    for exception in exceptions:
        if re.search(exception["pattern"], key):
            scale *= exception.get("scale", 1.0)
            offset += exception.get("offset", 0.0)
    return scale, offset


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over all values in the order of names, what a manifest calls `weights_sha256`."""
    result = hashlib.sha256()
    for name in sorted(state):
        result.update(state[name].numpy().tobytes())
    return result.hexdigest()
