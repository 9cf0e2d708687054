"""Recognising layouts by their names."""

import re

import pytest

from d2_unsupdet.checkpoint.convert import convert
from d2_unsupdet.checkpoint.formats import FORMATS, Format, detect, get_format
from d2_unsupdet.errors import UserError
from tests.checkpoint.layouts import LAYOUTS, moco_state, torchvision_state


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_recognised_as_itself_only(name):
    state = LAYOUTS[name]()
    assert detect(state).name == name
    assert [entry.name for entry in FORMATS.values() if entry.fits(state)] == [name]


@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.bottom_up."])
def test_detectron2s_names_are_recognised_under_any_prefix(prefix):
    state, _ = convert(torchvision_state())
    assert detect(prefix + name for name in state).name == "detectron2"


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_without_its_first_stages_is_still_recognised(name):
    early = re.compile(r"(module\.)?(encoder(_q)?\.)?(conv1|bn1|layer[123])\..*")
    state = {n: t for n, t in LAYOUTS[name]().items() if not early.fullmatch(n)}
    assert detect(state).name == name


def test_without_the_wrapper_of_distributed_training():
    state = {name.removeprefix("module."): tensor for name, tensor in moco_state().items()}
    assert detect(state).name == "moco"
    wrapped = {f"module.{name}": tensor for name, tensor in torchvision_state().items()}
    assert detect(wrapped).name == "torchvision"


def test_an_unknown_layout_shows_its_names_and_ours():
    with pytest.raises(UserError, match=r"blocks\.0\.attn.*torchvision, moco"):
        detect(["blocks.0.attn", "blocks.1.attn"])


def test_an_ambiguous_layout_lists_the_candidates():
    both = [*torchvision_state(), *moco_state()]
    with pytest.raises(UserError, match="fit torchvision and moco: .*--from"):
        detect(both)


def test_a_wrong_format_name_gets_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'torchvision'"):
        get_format("torchvison")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_mean", "stem.conv1.norm.running_mean"),
        ("layer3.0.downsample.1.bias", "res4.0.shortcut.norm.bias"),
        ("layer3.0.downsample.0.weight", "res4.0.shortcut.weight"),
        ("layer4.2.bn3.weight", "res5.2.conv3.norm.weight"),
        ("layer1.10.conv2.weight", "res2.10.conv2.weight"),
    ],
)
def test_known_names_both_ways(name, expected):
    entry = FORMATS["torchvision"]
    assert entry.to_hub(name) == entry.to_hub("module." + name) == expected
    assert entry.from_hub(expected) == name


def test_a_new_layout_is_one_table_entry():
    entry = Format(
        "mine", "mine", marks=(r"net\.encoder\.weight",), prefix=r"net\.", resnet=False,
        renames=((r"^encoder\.", "transformer.encoder."),), drops=((r"head\.", "class head"),),
    )  # fmt: skip
    state = {"net.encoder.weight": 1, "net.head.weight": 2, "epoch": 3}
    assert entry.fits(state)
    found, report = convert(state, entry)
    assert found == {"transformer.encoder.weight": 1}
    assert report.dropped == {"net.head.weight": "class head", "epoch": "outside net."}
