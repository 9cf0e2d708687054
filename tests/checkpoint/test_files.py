"""Safe reading and atomic writing."""

import argparse
import errno
import hashlib
import logging
import os
import pickle
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from d2_unsupdet.checkpoint import files
from d2_unsupdet.checkpoint.files import atomic_write, check_exists, read_weights, sha256
from d2_unsupdet.errors import UserError

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


def write(path, content):
    if path.suffix == ".safetensors":
        save_file(content, path, {"author": "x"})
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.bin", "w.pth.tar", "w.pkl"])
def test_each_container_gives_the_same_tensors(tmp_path, name):
    found = read_weights(write(tmp_path / name, WEIGHTS))
    assert found.state.keys() == WEIGHTS.keys()
    assert all(torch.equal(found.state[k], WEIGHTS[k]) for k in WEIGHTS)


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_weights_are_found_beside_training_state(tmp_path, wrapper):
    options = argparse.Namespace(lr=1e-4, backbone="resnet50")
    content = {wrapper: WEIGHTS, "optimizer": {"state": {}}, "epoch": 7, "args": options}
    found = read_weights(write(tmp_path / "detr.pth", content))
    assert found.state.keys() == WEIGHTS.keys()
    assert found.meta == {"epoch": 7, "args": options}


def test_a_detectron2_pickle_of_arrays_is_read(tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}
    content = {"model": arrays, "__author__": "somebody", "matching_heuristics": True}
    found = read_weights(write(tmp_path / "w.pkl", content))
    assert torch.equal(found.state["a.weight"], WEIGHTS["a.weight"])
    assert found.meta["__author__"] == "somebody"
    found.state["a.weight"].zero_()  # writable memory of its own


def test_big_endian_arrays_are_turned(tmp_path):
    path = write(tmp_path / "w.pkl", {"w": np.arange(3, dtype=">f4")})
    assert read_weights(path).state["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.bin"])
@pytest.mark.parametrize("content", [Attack(), {"model": {"w": torch.ones(1)}, "x": [Attack()]}])
def test_code_is_refused_by_name_and_never_run(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"(posix|nt|os)\.system.*--allow-unsafe"):
        read_weights(write(tmp_path / name, content))
    assert not (tmp_path / "attacked").exists()


def test_code_in_a_torch_zip_named_pkl_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Attack()}, tmp_path / "w.pkl")
    with pytest.raises(UserError, match="system"):
        read_weights(tmp_path / "w.pkl")


def test_code_in_a_bare_pickle_named_pth_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"w": Attack()}, protocol=2))
    with pytest.raises(UserError):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.pkl"])
def test_unsafe_is_for_one_call_and_said(tmp_path, caplog, name):
    path = write(tmp_path / name, {"model": WEIGHTS, "path": tmp_path})
    with caplog.at_level(logging.WARNING):
        assert read_weights(path, allow_unsafe=True).state.keys() == WEIGHTS.keys()
    assert "without restrictions" in caplog.text
    with pytest.raises(UserError, match="pathlib"):
        read_weights(path)


@pytest.mark.skipif(
    not hasattr(torch.serialization, "safe_globals"), reason="torch 2.4 cannot take it back"
)
def test_the_namespace_is_not_allowed_for_the_rest_of_the_process(tmp_path):
    path = write(tmp_path / "w.pth", {"model": WEIGHTS, "args": argparse.Namespace()})
    read_weights(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_torch_without_the_context_manager_does_the_same(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.serialization, "safe_globals", raising=False)  # torch 2.4
    path = write(tmp_path / "w.pth", {"model": WEIGHTS, "args": argparse.Namespace()})
    assert read_weights(path).state.keys() == WEIGHTS.keys()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_a_missing_file_names_its_neighbour(tmp_path):
    write(tmp_path / "moco_v2_800ep.pth", WEIGHTS)
    with pytest.raises(UserError, match="Did you mean 'moco_v2_800ep.pth'"):
        read_weights(tmp_path / "moco_v2_80ep.pth")
    with pytest.raises(UserError, match=r"folder .* does not exist\.$"):
        read_weights(tmp_path / "no" / "w.pth")


def test_a_relative_path_tells_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output/pretrain").mkdir(parents=True)
    here = re.escape(str(tmp_path.resolve()))
    with pytest.raises(UserError, match=rf"no file nope.pth \(looked in {here}\)\.$"):
        check_exists(Path("nope.pth"))
    said = rf"does not exist \(looked in {here}/output\)\. Did you mean 'pretrain'\?"
    with pytest.raises(UserError, match=said):
        check_exists(Path("output/pretrian/run/export.safetensors"))


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1", b"PK\x03\x04"]
)
def test_broken_files_are_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.safetensors"])
def test_truncated_files_are_one_sentence(tmp_path, name):
    content = write(tmp_path / name, WEIGHTS).read_bytes()
    for size in range(1, len(content) - 1, max(1, len(content) // 25)):
        (tmp_path / name).write_bytes(content[:size])
        with pytest.raises(UserError, match=name):
            read_weights(tmp_path / name)


def test_a_file_without_tensors_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no tensors.*epoch"):
        read_weights(write(tmp_path / "w.pth", {"epoch": 1}))
    with pytest.raises(UserError, match="list"):
        read_weights(write(tmp_path / "w.pth", [1]))


def test_the_expected_hash_is_checked_before_reading(tmp_path):
    path = write(tmp_path / "w.pth", WEIGHTS)
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256(path) == good
    assert read_weights(path, expected_sha256=good[:8].upper()).state
    for wrong in ("0" * 64, good[:4], ""):
        with pytest.raises(UserError, match="SHA-256"):
            read_weights(path, expected_sha256=wrong)


def test_old_torch_is_warned_about_once(tmp_path, monkeypatch):
    path = write(tmp_path / "w.pth", WEIGHTS)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    files._warn_old_torch.cache_clear()
    with pytest.warns(UserWarning, match="CVE-2025-32434") as record:
        read_weights(path)
        read_weights(path)
    assert len(record) == 1
    files._warn_old_torch.cache_clear()


def test_atomic_write_replaces_and_hashes(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    digest = atomic_write(path, lambda file: [file.write(b"ne"), file.write(b"w")])
    assert path.read_bytes() == b"new"
    assert (digest.size, digest.sha256) == (3, hashlib.sha256(b"new").hexdigest())
    assert os.listdir(tmp_path) == ["x.bin"]


def test_atomic_write_obeys_the_umask(tmp_path):
    atomic_write(tmp_path / "x", lambda file: file.write(b"x"))
    (tmp_path / "y").write_bytes(b"y")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "xy"]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_any_exception_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def writer(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        atomic_write(path, writer)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch, call):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match=r"x\.bin: No space left on device"):
        atomic_write(path, lambda file: file.write(b"new"))
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_a_missing_folder_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        atomic_write(tmp_path / "no" / "x", lambda file: file.write(b""))


def test_readers_beside_a_writer_see_old_or_new(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old" * 1000)
    seen = set()

    def writer(file):
        for _ in range(1000):
            file.write(b"new")
            seen.add(path.read_bytes())

    atomic_write(path, writer)
    assert seen == {b"old" * 1000}
    assert path.read_bytes() == b"new" * 1000


def test_the_moving_average_of_a_run_is_what_is_read(tmp_path):
    path = tmp_path / "model_final.pth"
    state = {
        "model": {"w": torch.zeros(2)},
        "ema": {"updates": 3, "average": {"w": torch.ones(2)}},
        "iteration": 9,
    }
    torch.save(state, path)
    assert torch.equal(read_weights(path).state["w"], torch.ones(2))


def test_a_folder_instead_of_a_file_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="is a folder, and a file is needed: a file in it"):
        check_exists(tmp_path)
    (tmp_path / "export.safetensors").touch()
    with pytest.raises(UserError, match="a file is needed: .*export.safetensors"):
        check_exists(tmp_path)
