"""Read a `.pkl` of weights without running what is inside it.

Every name a pickle asks for is looked up in one short table; there is no other way in. NumPy's own
`__setstate__` trusts its input, so arrays and dtypes are rebuilt by small checked stand-ins.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch


class RefusedGlobal(Exception):
    """A pickle asked for something that weights do not need; `name` is what it asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def restricted_load(file: BinaryIO) -> Any:
    """Unpickle numbers, text, containers, arrays and tensors; raise RefusedGlobal on the rest."""
    # latin1: Detectron's oldest model-zoo files were pickled by Python 2
    return _plain(_Unpickler(file, encoding="latin1").load())


class _Call:
    """A callable that a hostile pickle can neither change (BUILD) nor look into."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise RefusedGlobal(f"change of {name}")

    def __setstate__(self, state: Any) -> NoReturn:
        raise RefusedGlobal("state for a function")


class _DType:
    """Stands for `numpy.dtype`: plain numbers, booleans and text only."""

    def __init__(self, code: str, *_: Any) -> None:
        self.value = np.dtype(code)
        if self.value.kind not in "biufcSU":
            raise RefusedGlobal(f"numpy.dtype({code!r})")

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands for `numpy.ndarray` until the whole pickle is read."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, fortran, raw = state[-4:]
        self.value = _from_buffer(raw, dtype, shape, "F" if fortran else "C").value


def _from_buffer(raw: Any, dtype: _DType, shape: tuple, order: str = "C") -> _Array:
    array = _Array()
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    flat = np.frombuffer(raw, dtype.value)
    array.value = flat.reshape(shape, order="F" if order == "F" else "C").copy()
    return array


def _scalar(dtype: _DType, raw: Any) -> Any:
    return _from_buffer(raw, dtype, ()).value.item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding.replace("-", "").replace("_", "") != "latin1":
        raise RefusedGlobal(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _storage(raw: bytes) -> Any:
    # a tensor inside a plain pickle carries a whole torch file; it gets no more trust than one
    return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)


def _table() -> dict[tuple[str, str], Any]:
    table: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _Call(_encode),
        ("__builtin__", "bytes"): _Call(lambda: b""),  # how old protocols write an empty one
        ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct
        ("numpy", "dtype"): _Call(_DType),
        ("torch._utils", "_rebuild_tensor_v2"): _Call(torch._utils._rebuild_tensor_v2),
        ("torch._utils", "_rebuild_parameter"): _Call(lambda data, *_: data),
        ("torch.storage", "_load_from_bytes"): _Call(_storage),
        ("torch", "Size"): _Call(tuple),
    }
    for core in ("numpy.core", "numpy._core"):  # the name before and after NumPy 2
        table[f"{core}.multiarray", "_reconstruct"] = _Call(lambda *_: _Array())
        table[f"{core}.multiarray", "scalar"] = _Call(_scalar)
        table[f"{core}.numeric", "_frombuffer"] = _Call(_from_buffer)
    return table


class _Unpickler(pickle.Unpickler):
    allowed = _table()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise RefusedGlobal(f"{module}.{name}")
        return self.allowed[module, name]


def _plain(value: Any) -> Any:
    """Replace the stand-ins by what they stand for."""
    if isinstance(value, _Array | _DType):
        return value.value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value
