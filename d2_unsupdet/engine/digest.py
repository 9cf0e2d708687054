"""One hash for a whole training state, to say that two runs ended in the same bits."""

import hashlib
from typing import Any

import torch


def state_digest(state: Any) -> str:
    """SHA-256 over every tensor and number of a nested state, keys in sorted order."""
    digest = hashlib.sha256()
    _update(digest, "", state)
    return digest.hexdigest()


def _update(digest: Any, path: str, value: Any) -> None:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            _update(digest, f"{path}/{key}", value[key])
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _update(digest, f"{path}/{number}", item)
    elif isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{path}:{tuple(plain.shape)}:{plain.dtype}".encode())
        # Bytes of any dtype, bf16 included, without a numpy type for it.
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update(f"{path}={value!r}".encode())
