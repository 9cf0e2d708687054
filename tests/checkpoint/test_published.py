"""Published folders and the hub: hashes are compared, and nothing is asked without its prefix."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from d2_unsupdet.checkpoint import hub as hub_module
from d2_unsupdet.checkpoint.export import write_weights
from d2_unsupdet.checkpoint.files import sha256
from d2_unsupdet.checkpoint.hub import parse_name
from d2_unsupdet.checkpoint.load import load_weights
from d2_unsupdet.checkpoint.published import FORMAT, located
from d2_unsupdet.errors import UserError
from tests.sharing.fake_hub import asked_by_the_client


def published(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir()
    layer = nn.Linear(2, 3)
    nn.init.constant_(layer.weight, value)
    path = folder / "model.safetensors"
    write_weights(path, layer.state_dict())
    entry = {"size": path.stat().st_size, "sha256": sha256(path)}
    files = {path.name: entry}
    told = {"format": FORMAT, "content": "model", "method": "Linear", "data": "none"}
    (folder / "manifest.json").write_text(json.dumps({**told, "files": files}))
    (folder / "config.yaml").write_text("train: {}\n")
    return folder


@pytest.fixture
def folder(tmp_path):
    return published(tmp_path / "shared")


def loaded(source) -> float:
    """The weight that is in the layer after loading."""
    layer = nn.Linear(2, 3)
    load_weights(layer, source)
    return layer.weight.unique().item()


def test_a_folder_is_as_good_as_its_file(folder):
    assert loaded(folder) == loaded(str(folder)) == loaded(folder / "model.safetensors") == 1.0


def test_changed_or_cut_weights_are_not_loaded(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="SHA-256 .*not those that were published"):
        loaded(folder)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="git LFS"):
        loaded(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"holds no model.safetensors"):
        loaded(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "another"}', "\xff"])
def test_a_strange_manifest_is_a_sentence(folder, text):
    (folder / "manifest.json").write_text(text, encoding="latin1")
    with pytest.raises(UserError, match="is not a manifest of tools/publish.py"):
        loaded(folder)


def test_a_bare_name_is_no_reason_to_ask_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="say hub:someone/detector"):
        located("someone/detector")
    (tmp_path / "someone").mkdir()
    with pytest.raises(UserError, match="There is no file someone/detector"):
        loaded("someone/detector")


@pytest.mark.parametrize(
    "text, name",
    [
        ("hub:someone/detector", ("someone/detector", None)),
        ("hub:some-one/de.tec_tor@v1.0", ("some-one/de.tec_tor", "v1.0")),
        ("hub:a/b@refs/pr/1", ("a/b", "refs/pr/1")),
    ],
)
def test_names_of_repositories(text, name):
    assert parse_name(text) == name


@pytest.mark.parametrize(
    "text", ["hub:", "hub:a", "hub:a/b/c", "hub:../b", "hub:a/b@", "hub:a b/c"]
)
def test_what_names_no_repository(text):
    with pytest.raises(UserError, match="write hub:owner/name"):
        located(text)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setattr(hub_module, "is_installed", lambda module: False)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        located("hub:nobody/without")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with asked_by_the_client(tmp_path / "cache", monkeypatch) as hub:
        yield hub


def test_weights_from_the_hub(hub, folder, tmp_path):
    hub.add("someone/detector", folder)
    hub.add("someone/detector", published(tmp_path / "older", 2.0), revision="v1")
    assert loaded(folder) == 1.0 and hub.asked == []  # a path asks nobody
    assert loaded("hub:someone/detector") == 1.0
    assert loaded("hub:someone/detector@v1") == 2.0
    asked = len(hub.asked)
    assert loaded("hub:someone/detector@v1") == 2.0 and len(hub.asked) == asked
    assert not any(path.endswith("README.md") for path in hub.asked)


def test_the_cache_serves_a_machine_without_network(hub, folder, monkeypatch):
    hub.add("someone/detector", folder)
    assert loaded("hub:someone/detector") == 1.0
    hub_module.fetch.cache_clear()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert loaded("hub:someone/detector") == 1.0 and len(hub.asked) == asked
    with pytest.raises(UserError, match="not in the cache: the hub is out of reach"):
        loaded("hub:someone/another")


def test_hashes_of_fetched_weights_are_compared(hub, folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    hub.add("someone/changed", folder)
    with pytest.raises(UserError, match="not those that were published"):
        loaded("hub:someone/changed")


def test_weights_that_others_published(hub, folder, tmp_path, caplog):
    """Without a manifest of ours nothing can be compared, which is said with the way to do it."""
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "manifest.json").unlink()
    hub.add("someone/bare", bare)
    with caplog.at_level(logging.WARNING):
        assert loaded("hub:someone/bare") == 1.0
    assert f"expected_sha256={sha256(bare / 'model.safetensors')}" in caplog.text
    layer = nn.Linear(2, 3)
    with pytest.raises(UserError, match="not the expected"):
        load_weights(layer, "hub:someone/bare", expected_sha256="0" * 64)
    (bare / "model.safetensors").unlink()
    torch.save({}, bare / "pytorch_model.bin")
    hub.add("someone/pickled", bare)
    with pytest.raises(UserError, match=r"hub:someone/pickled holds no model.safetensors"):
        loaded("hub:someone/pickled")


def test_what_the_hub_refuses_is_a_sentence(hub, folder):
    hub.add("someone/detector", folder)
    with pytest.raises(UserError, match="knows no repository someone/else"):
        loaded("hub:someone/else")
    with pytest.raises(UserError, match="has no revision 'v9'"):
        loaded("hub:someone/detector@v9")
