"""A YAML config is data: what it may call is a list, and nothing else is called or looked up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from detectron2.config import instantiate

from d2_unsupdet.analysis.detectors import open_detector
from d2_unsupdet.analysis.look import open_looker
from d2_unsupdet.checkpoint.backbone import load_resnet
from d2_unsupdet.data import catalog
from d2_unsupdet.engine import known_targets
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.known_targets import LOCATE, VARIABLE, check_known, is_known
from d2_unsupdet.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {
    "model": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3},
    "dataloader": {},
    "optimizer": {"lr": 0.1},
    "lr_multiplier": {},
    "train": {"max_iter": 1},
}
SECTIONS = ["model", "optimizer", "lr_multiplier", "dataloader"]
OWN = "class Model:\n    def __init__(self, size):\n        self.size = size\nimport os\n"


def touch(mark: Path) -> dict:
    return {"_target_": "os.system", "command": f"touch {mark}"}


def write(folder: Path, content: dict) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def mark(tmp_path):
    """What hostile files make, which must not be there in the end."""
    yield tmp_path / "mark"
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "eval",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.nn.init.torch.load",
        "torch.nn.modules",
        "torch.nn.modules.module.functools.partial",
        "torch.nn.Module.load_state_dict",
        "torch.nn.modules.module._WrappedHook",
        "torch.nn.DataParallel",  # a class defined elsewhere in torch, by a name that is looked up
        "torch.nn.Parameter",
        "torch.nn.modules.module.RemovableHandle",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.nn.utils.rnn.PackedSequence",
        "detectron2.config.LazyConfig.load",
        "detectron2.engine.DefaultPredictor",
        "detectron2.checkpoint.DetectionCheckpointer",
        "detectron2.modeling.build_model",
        "detectron2.modeling.mmdet_wrapper.MMDetBackbone",
        "detectron2.utils.registry.locate",
        "detectron2.utils.registry.pydoc.locate",
        "d2_unsupdet.data.catalog.os.system",
        "d2_unsupdet.data.catalog.Path",
        "d2_unsupdet.data.catalog.os",
        "d2_unsupdet.pretext.dense_siam.torch.load",
        "d2_unsupdet.checkpoint.files.read_weights",
        "d2_unsupdet.checkpoint.backbone.load_resnet",
        "d2_unsupdet.engine.config.load_config",
        "d2_unsupdet.engine.run.train",
        "d2_unsupdet.priors.by_name.source_by_name",
        "d2_unsupdet.priors.plan.ExtractionPlan",
        "d2_unsupdet.priors.store.GenerationWriter",
        "${train.output_dir}",
        "torch.nn.${train.output_dir}",
        "torch.nn.Linear\n",
        "",
    ],
)
def test_what_could_run_code_or_write_files_is_not_known(name):
    assert not is_known(name)


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.Linear",
        "torch.optim.AdamW",
        "d2_unsupdet.data.get_dataset",
        "d2_unsupdet.pretext.InfoNCE",
        "d2_unsupdet.priors.StoredBoxes",
        "detectron2.data.transforms.RandomFlip",
        "detectron2.modeling.backbone.resnet.ResNet.make_stage",
        "d2_unsupdet.detectors.backbone.DetrResNet.make_stage",
    ],
)
def test_short_and_inherited_names_of_known_parts_are_known(name):
    assert is_known(name)


class _Private: ...


class Outer:
    class Inner: ...


@pytest.mark.parametrize(
    "name, found, known",
    [
        ("Alias", _Private, False),
        ("Outer.Inner", Outer.Inner, False),
        ("Flat", Outer.Inner, False),
        ("Outer", Outer, True),
    ],
)
def test_private_and_nested_classes_of_a_known_module_are_not_known(
    monkeypatch, name, found, known
):
    """Neither under a public name: nobody read them as what a file may call."""
    monkeypatch.setattr(found, "__module__", catalog.__name__)
    first = name.partition(".")[0]
    monkeypatch.setattr(catalog, first, Outer if "." in name else found, raising=False)
    known_targets._found.cache_clear()
    whole = f"{catalog.__name__}.{name}"
    assert known_targets._found(whole) is found
    assert is_known(whole) == known
    known_targets._found.cache_clear()


def test_a_stranger_is_not_even_imported(tmp_path, monkeypatch, mark):
    (tmp_path / "stranger.py").write_text(f"open({str(mark)!r}, 'w')\nclass Model: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path / "run", PLAIN | {"model": {"_target_": "stranger.Model"}})
    with pytest.raises(UserError, match="_target_='stranger.Model' is no part"):
        load_config(str(path))
    assert "stranger" not in sys.modules


@pytest.mark.parametrize(
    "hide",
    [
        lambda call: call,
        lambda call: {"_target_": "torch.nn.ReLU", "inplace": call},
        lambda call: {"list": [1, {"deeper": [call]}]},
        lambda call: {"_target_": {"_target_": LOCATE, "name": "os.system"}, "command": "true"},
        lambda call: {"_target_": LOCATE, "name": "os.system"},
        lambda call: {"_target_": LOCATE, "name": "torch.nn.ReLU", "more": 1},
        lambda call: {"_target_": "${train.output_dir}", "command": call["command"]},
        lambda call: {"_target_": ["os.system"]},
        lambda call: {"_target_": None},
    ],
)
@pytest.mark.parametrize("section", [*SECTIONS, "train"])
def test_a_call_is_found_wherever_it_hides(tmp_path, mark, section, hide):
    content = PLAIN | {section: {**PLAIN[section], **hide(touch(mark))}}
    with pytest.raises(UserError, match=rf"config.yaml': {section}.*_target_"):
        load_config(str(write(tmp_path / "run", content)))


def test_a_call_behind_an_alias_is_found_and_a_circle_ends(tmp_path, mark):
    path = tmp_path / "config.yaml"
    call = f"{{_target_: os.system, command: touch {mark}}}"
    rest = "dataloader: {}\noptimizer: {}\nlr_multiplier: {}\n"
    path.write_text(f"train: &a {call}\nmodel: {{weight: *a}}\n{rest}")
    with pytest.raises(UserError, match="os.system"):
        load_config(str(path))
    path.write_text(f"train: {{}}\nmodel: &a {{itself: *a}}\n{rest}")
    with pytest.raises(UserError, match="cannot be read: RecursionError"):
        load_config(str(path))


@pytest.mark.parametrize(
    "text",
    ["${oc.env:HOME}", "x/${oc.env:HOME}", "${${train.device}:HOME}", "${oc.decode:'[1]'}"],
)
def test_a_file_reads_no_environment(tmp_path, text):
    path = write(tmp_path, PLAIN | {"train": {"output_dir": text}})
    with pytest.raises(UserError, match=r"train\.output_dir=.* asks for more than another key"):
        load_config(str(path))
    content = PLAIN | {"optimizer": {"lr": 0.1, "weight_decay": "${.lr}"}}
    assert load_config(str(write(tmp_path, content))).optimizer.weight_decay == 0.1
    override = "train.output_dir=${oc.env:HOME}"  # the command line is the user's own
    assert load_config(str(path.parent / "config.yaml"), [override])


@pytest.mark.parametrize("as_text", [False, True])
def test_detectron2s_yaml_holds_values_only(tmp_path, mark, as_text):
    """Its loader turns text into lists again, so it is what arrives that must be looked at."""
    call = [touch(mark)]
    path = tmp_path / "a.yaml"
    sizes = {"MIN_SIZE_TRAIN": str(call) if as_text else call}
    path.write_text(yaml.safe_dump({"INPUT": sizes}))
    with pytest.raises(UserError, match=r"INPUT\.MIN_SIZE_TRAIN\.0 holds a '_target_'"):
        load_config(str(path))
    path.write_text(yaml.safe_dump({"OUTPUT_DIR": "${oc.env:HOME}"}))
    with pytest.raises(UserError, match="OUTPUT_DIR holds"):
        load_config(str(path))


def test_own_code_runs_where_the_user_says_so(tmp_path, monkeypatch):
    package = tmp_path / "own_project"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    model = {"_target_": "own_project._parts.Model", "size": 4}
    path = str(write(tmp_path / "run", PLAIN | {"model": model}))
    sentence = rf"run.config.yaml': model\._target_='own_.*--allow-unsafe.*{VARIABLE}=own_project\."
    with pytest.raises(UserError, match=sentence):
        load_config(path)
    assert instantiate(load_config(path, allow_unsafe=True).model).size == 4
    monkeypatch.setenv(VARIABLE, "another, own_project")
    assert instantiate(load_config(path).model).size == 4
    for name in ("own_project._parts.os.system", "os.system", "own_projects.Model"):
        with pytest.raises(UserError, match="is no part that a YAML file may call"):
            check_known({"_target_": name}, "It")


@pytest.mark.parametrize("content", [b"a: " + b"[" * 5000, b"a: \xff"])
def test_a_file_that_is_no_text_or_too_deep_is_a_sentence(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not plain YAML"):
        load_config(str(path))


def test_a_name_that_is_none_keeps_its_hint(tmp_path):
    path = write(tmp_path, PLAIN | {"model": {"_target_": "torch.nn.Linaer"}})
    with pytest.raises(UserError, match=r"model\._target_='torch.nn.Linaer' cannot be imported"):
        load_config(str(path))


@pytest.mark.parametrize("opener", [open_looker, open_detector, load_resnet])
@pytest.mark.parametrize("section", SECTIONS)
def test_no_opener_calls_what_a_folder_names(tmp_path, mark, section, opener):
    folder = write(tmp_path / "shared", PLAIN | {section: touch(mark)}).parent
    (folder / "model.safetensors").write_bytes(b"")
    label = {"label": "a"} if opener is open_detector else {}
    with pytest.raises(UserError, match="os.system|model.safetensors|no checkpoint"):
        opener(folder, **label)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["train_net.py", "--print-config", "--config-file", "FILE"],
        ["train_net.py", "--eval-only", "--config-file", "FILE"],
        ["tools/visualize.py", "FOLDER"],
        ["tools/visualize.py", "FOLDER", "--priors"],
        ["tools/export_onnx.py", "FOLDER", "--out", "OUT"],
        ["tools/publish.py", "FOLDER", "--out", "OUT"],
        ["tools/probe.py", "knn", "FOLDER"],
        ["demo/serve.py", "FOLDER"],
    ],
)
def test_no_command_calls_what_a_folder_names(tmp_path, mark, command):
    file = write(tmp_path / "shared", PLAIN | {"model": touch(mark)})
    words = {"FILE": str(file), "FOLDER": str(file.parent), "OUT": str(tmp_path / "out")}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *(words.get(word, word) for word in command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    if command[0] in ("train_net.py", "demo/serve.py"):
        assert "model._target_='os.system'" in done.stderr
