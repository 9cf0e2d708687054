"""Write weights for others to read: `.safetensors`, Detectron2's `.pkl`, or a plain `.pth`."""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from d2_unsupdet.checkpoint.files import atomic_write
from d2_unsupdet.errors import UserError

AUTHOR = "d2_unsupdet"  # any name but "Caffe2", which makes Detectron2 rename the tensors
State = dict[str, torch.Tensor]


def export_weights(
    state: Mapping[str, torch.Tensor], stem: str | Path, *, meta: Mapping[str, str] | None = None
) -> list[Path]:
    """Write `<stem>.safetensors` and `<stem>.pkl`; both load into any detector with such a part."""
    stem = Path(stem)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".safetensors", ".pkl")]
    for path in paths:
        write_weights(path, state, meta=meta)
    return paths


def write_weights(
    path: str | Path, state: Mapping[str, torch.Tensor], *, meta: Mapping[str, str] | None = None
) -> None:
    """Write one file, in the container that its suffix names, atomically."""
    path = Path(path)
    if path.suffix not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise UserError(f"Cannot write {path}: its suffix must be one of {known}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {path.parent}: {error.strerror}.") from None
    # a copy of its own for each tensor: safetensors refuses shared memory, pickle keeps all of it
    tensors = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in state.items()}
    said = {key: str(value) for key, value in (meta or {}).items()}
    atomic_write(path, lambda file: _WRITERS[path.suffix](file, tensors, said))


def _write_safetensors(file: BinaryIO, state: State, meta: dict[str, str]) -> None:
    from safetensors.torch import save

    whole = save(state, {"format": "pt", "author": AUTHOR, **meta})
    length = int.from_bytes(whole[:8], "little")
    file.write(whole[:8] + _in_order(whole[8 : 8 + length]))
    file.write(memoryview(whole)[8 + length :])


def _in_order(header: bytes) -> bytes:
    """The same header with its metadata sorted, so that equal weights are equal bytes.

    The library writes them in an order that changes from call to call. The header is JSON, padded
    by spaces, which sorting leaves as long as it was.
    """
    told = json.loads(header)
    told["__metadata__"] = dict(sorted(told["__metadata__"].items()))
    result = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    return result.ljust(len(header)) if len(result) <= len(header) else header


def _write_pickle(file: BinaryIO, state: State, meta: dict[str, str]) -> None:
    arrays = {name: _numpy_ready(tensor).numpy() for name, tensor in state.items()}
    content = {"model": arrays, "__author__": AUTHOR, "matching_heuristics": True, "meta": meta}
    pickle.dump(content, file, protocol=4)


def _write_torch(file: BinaryIO, state: State, meta: dict[str, str]) -> None:
    # torchvision's users hand the file to load_state_dict: with strict=False a wrapper would load
    # nothing and say nothing.
    bare = meta.get("layout") == "torchvision"
    content = state if bare else {"model": state, "matching_heuristics": True, "meta": meta}
    torch.save(content, file)


def _numpy_ready(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


_WRITERS: dict[str, Callable[[BinaryIO, State, dict[str, str]], Any]] = {
    ".safetensors": _write_safetensors,
    ".pkl": _write_pickle,
    ".pth": _write_torch,
}
