"""What a pickle may and may not make us do."""

import builtins
import functools
import io
import os
import pickle
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import torch

from d2_unsupdet.checkpoint.unpickle import RefusedGlobal, restricted_load


class Attack:
    """Pickles to a call of any function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def load(content: bytes):
    return restricted_load(io.BytesIO(content))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", "i8", "u1", "?", ">f4", "c8"])
def test_arrays_come_back_equal(protocol, order, dtype):
    array = np.asarray(np.arange(24).reshape(2, 3, 4), dtype=dtype, order=order)
    found = load(pickle.dumps({"a": array, "empty": array[:0], "zero": array[0, 0, 0]}, protocol))
    assert np.array_equal(found["a"], array)
    assert found["a"].dtype == array.dtype
    assert found["empty"].shape == (0, 3, 4)
    assert found["zero"] == array[0, 0, 0].item()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_and_containers_come_back_equal(protocol):
    weight = torch.arange(6.0).reshape(2, 3)
    value = OrderedDict(
        a=weight.t(), b=[torch.nn.Parameter(weight)], c=("x", 1, None, weight.shape)
    )
    found = load(pickle.dumps(value, protocol))
    assert torch.equal(found["a"], weight.t())
    assert torch.equal(found["b"][0], weight)
    assert found["c"] == ("x", 1, None, (2, 3))


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_both_names_of_numpy_core_are_known(core):
    content = pickle.dumps(np.arange(3.0), protocol=2)
    other = content.replace(b"numpy._core.multiarray", f"{core}.multiarray".encode())
    other = other.replace(b"numpy.core.multiarray", f"{core}.multiarray".encode())
    assert np.array_equal(load(other), np.arange(3.0))


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (Attack(os.system, "touch attacked"), "system"),
        (Attack(eval, "open('attacked', 'w')"), r"builtin\w*\.eval"),
        (Attack(exec, "open('attacked', 'w')"), r"builtin\w*\.exec"),
        (Attack(getattr, "text", "format"), r"builtin\w*\.getattr"),
        (Attack(subprocess.check_call, ["touch", "attacked"]), "check_call"),
        (Attack(functools.partial, print), "functools.partial"),
        (Attack(torch.load, "attacked"), "torch.serialization.load"),
        (Attack(np.load, "attacked"), "numpy"),
        (Attack(builtins.__import__, "antigravity"), r"builtin\w*\.__import__"),
        ({"model": {"w": np.ones(2)}, "deep": [({"x": Attack(os.system, "true")},)]}, "system"),
        (Attack(OrderedDict, [("k", Attack(os.system, "true"))]), "system"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_all_else_is_refused_and_named(attack, named, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefusedGlobal, match=named):
        load(pickle.dumps(attack, protocol))
    assert not list(tmp_path.iterdir())


def test_code_inside_an_embedded_torch_file_is_refused():
    inner = io.BytesIO()
    torch.save(Attack(os.system, "true"), inner)

    content = pickle.dumps(Attack(torch.storage._load_from_bytes, inner.getvalue()))
    with pytest.raises(pickle.UnpicklingError):
        load(content)


def test_attributes_of_allowed_names_cannot_be_reached():
    # STACK_GLOBAL with a dotted name walks attributes in the plain unpickler
    content = b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93."
    with pytest.raises(RefusedGlobal, match="OrderedDict.fromkeys"):
        load(content)


def test_functions_cannot_be_given_state():
    # GLOBAL numpy dtype, EMPTY_DICT, BUILD
    with pytest.raises(RefusedGlobal):
        load(b"cnumpy\ndtype\n}b.")


def test_object_and_record_arrays_are_refused():
    with pytest.raises(RefusedGlobal, match="dtype"):
        load(pickle.dumps(np.array([{}, None], dtype=object)))
    with pytest.raises(RefusedGlobal, match="dtype"):
        load(pickle.dumps(np.zeros(2, dtype="i4,f4")))


def test_an_array_that_claims_more_than_it_holds_is_refused():
    content = pickle.dumps(np.zeros(7, dtype="u1"), protocol=2)
    with pytest.raises(ValueError, match="reshape"):
        load(content.replace(b"K\x07\x85", b"K\x70\x85"))
