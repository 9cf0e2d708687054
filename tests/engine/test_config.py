"""Configs: overrides that must exist, one class count, a saved form that loads safely."""

from pathlib import Path

import pytest
import yaml
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from d2_unsupdet.engine.config import (
    apply_override,
    dump_config,
    load_config,
    resolve_class_count,
    to_plain,
)
from d2_unsupdet.errors import UserError

RECIPE = """
from detectron2.config import LazyCall as L
from torch import nn
model = L(nn.Conv2d)(in_channels=3, out_channels="${.in_channels}", kernel_size=1)
dataloader = dict(train=dict(total_batch_size=16))
optimizer = dict(lr=0.1)
lr_multiplier = dict(values=(1.0, 0.1))
train = dict(max_iter="12 epochs", output_dir="out", amp=dict(enabled=False))
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


def test_overrides_reach_keys_and_parameters_of_the_target(recipe):
    overrides = [
        "train.max_iter=100",
        "model.kernel_size=3",
        "model.padding=1",
        "optimizer.lr=1e-3",
    ]
    cfg = load_config(str(recipe), overrides)
    assert (cfg.train.max_iter, cfg.optimizer.lr, cfg.model.padding) == (100, 1e-3, 1)
    assert cfg.train.recipe_length == "12 epochs"
    assert isinstance(instantiate(cfg.model), nn.Conv2d)


@pytest.mark.parametrize(
    "text", ["voc_2007_trainval,voc_2012_trainval", "folder:/my images/a, b", "range(1,3)", "~/x"]
)
def test_names_and_paths_are_meant_literally(recipe, text):
    """Hydra reads the first three as sweeps over several runs, which a config cannot hold."""
    assert load_config(str(recipe), [f"train.output_dir={text}"]).train.output_dir == text


def test_another_part_leaves_out_what_only_the_one_before_knew(recipe, caplog):
    given = ["model.padding=1", "model._target_=torch.nn.AvgPool2d", "model.stride=2"]
    cfg = load_config(str(recipe), given)
    pool = instantiate(cfg.model)
    assert isinstance(pool, nn.AvgPool2d) and (pool.padding, pool.stride) == (1, 2)
    assert "model is now another part, which has no in_channels, out_channels" in caplog.text


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("train.max_itr=3", r"Unknown config key 'train.max_itr': train has no 'max_itr'. Did you "
         r"mean 'max_iter'\?"),
        ("trian.max_iter=3", r"the config has no 'trian'. Did you mean 'train'\?"),
        ("model.kernelsize=3", r"model has no 'kernelsize'. Did you mean 'kernel_size'\?"),
        ("model.dilation.x=3", r"'dilation' of model is not set in this config"),
        ("train.output_dir.x=3", "train.output_dir is a value, not a section"),
        ("lr_multiplier.values.7=3", "lr_multiplier.values is a list of 2; '7' is no index"),
        ("train.max_iter", "is not of the form key=value"),
    ],
)  # fmt: skip
def test_a_key_that_does_not_exist_is_a_sentence(recipe, override, sentence):
    with pytest.raises(UserError, match=sentence):
        load_config(str(recipe), [override])


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 1e-3),
        ("[1,2]", [1, 2]),
        ("null", None),
        ("true", True),
        ("folder:/data/my images", "folder:/data/my images"),
        ("coco:/a/b.json@/c d/(e)", "coco:/a/b.json@/c d/(e)"),
        ("10%@seed1", "10%@seed1"),
        ("a=b", "a=b"),
    ],
)
def test_values(text, value):
    cfg = OmegaConf.create({"a": {"b": 0}})
    apply_override(cfg, f"a.b={text}")
    assert cfg.a.b == value


def test_saved_config_is_plain_yaml_and_loads_to_the_same(recipe, tmp_path):
    cfg = load_config(str(recipe), ["train.max_iter=7"])
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(cfg))
    assert yaml.safe_load(saved.read_text()) == to_plain(cfg)
    again = load_config(str(saved), ["train.max_iter=9"])
    assert again.train.recipe_length == "12 epochs"
    again.train.max_iter = 7
    assert to_plain(again) == to_plain(cfg)
    assert again.model._target_ == "torch.nn.modules.conv.Conv2d"
    assert instantiate(again.model).weight.shape == (3, 3, 1, 1)


def test_classes_as_values_become_names_and_other_objects_a_sentence():
    cfg = DictConfig({"a": [nn.ReLU]}, flags={"allow_objects": True})
    assert instantiate(OmegaConf.create(to_plain(cfg)["a"][0])) is nn.ReLU
    with pytest.raises(UserError, match="which no plain file can hold; use LazyCall"):
        to_plain(DictConfig({"a": object()}, flags={"allow_objects": True}))


def test_unsafe_yaml_and_wrong_files_are_refused(tmp_path):
    evil = tmp_path / "evil.yaml"
    evil.write_text("model: !!python/object/apply:os.system ['true']\ntrain: {}\n")
    with pytest.raises(UserError, match="is not plain YAML"):
        load_config(str(evil))
    (tmp_path / "finetune.py").write_text("train = {}")
    with pytest.raises(
        UserError, match=r"finetun.py' does not exist. Did you mean '.*finetune.py'"
    ):
        load_config(str(tmp_path / "finetun.py"))
    with pytest.raises(UserError, match="does not define model, dataloader, optimizer"):
        load_config(str(tmp_path / "finetune.py"))


def test_the_data_give_the_class_count():
    def config(count):
        heads = {"num_classes": count, "mask": {"num_classes": "${..num_classes}"}}
        return OmegaConf.create({"model": {"heads": heads}})

    cfg = config("auto")
    resolve_class_count(cfg, ["a", "b", "c"], "mine")
    assert cfg.model.heads.num_classes == cfg.model.heads.mask.num_classes == 3
    resolve_class_count(config(3), ["a", "b", "c"], "mine")
    with pytest.raises(UserError, match=r"num_classes=80 contradicts data set 'mine', which has 3"):
        resolve_class_count(config(80), ["a", "b", "c"], "mine")


def test_lazy_calls_of_functions_and_classmethods_survive():
    from detectron2.modeling.backbone.resnet import ResNet

    cfg = L(ResNet.make_default_stages)(depth=18)
    back = OmegaConf.create(to_plain(cfg))
    assert len(instantiate(back)) == 4


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("train.acumulate = 4", r"train has no 'acumulate'. Did you mean 'accumulate'\?"),
        ("train.amp.enable = True", r"train.amp has no 'enable'. Did you mean 'enabled'\?"),
        ("model.kernelsize = 3", r"model has no 'kernelsize'. Did you mean 'kernel_size'\?"),
        ("model._target_ = 'torch.nn.Konv2d'", "model._target_='torch.nn.Konv2d' cannot be"),
    ],
)
def test_an_unknown_key_in_a_file_is_a_sentence(recipe, tmp_path, line, sentence):
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(load_config(str(recipe))))
    key, value = line.split(" = ")
    plain = OmegaConf.create(yaml.safe_load(saved.read_text()))
    OmegaConf.update(plain, key, yaml.safe_load(value))
    saved.write_text(OmegaConf.to_yaml(plain))
    recipe.write_text(RECIPE.replace("train = dict", "train = DictConfig(dict").rstrip() + ")\n")
    recipe.write_text("from omegaconf import DictConfig\n" + recipe.read_text() + line + "\n")
    for file in (recipe, saved):
        with pytest.raises(UserError, match=f"Config file '{file}': {sentence}"):
            load_config(str(file))


def test_a_section_given_whole_is_looked_through_and_the_rest_has_defaults(recipe):
    with pytest.raises(UserError, match="train.amp has no 'enable'"):
        load_config(str(recipe), ["train.amp={enable:true}"])
    cfg = load_config(str(recipe), ["train.ema.enabled=true"])
    assert (cfg.train.amp.dtype, cfg.train.ema.enabled, cfg.train.ema.decay) == (
        "bf16",
        True,
        0.9998,
    )
    assert cfg.train.max_iter == "12 epochs"


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("model.a.b.c = 1", r"cannot be read: ConfigAttributeError \(line 10\): Missing key a"),
        ("train.max_iter = 1", r"cannot be read: AttributeError \(line 10\): 'dict' object has no"),
        ("train['max_iter'] += 1", r"cannot be read: TypeError \(line 10\): can only concatenate"),
        ("1 / 0", r"cannot be read: ZeroDivisionError \(line 10\): division by zero"),
        ("train = = 1", "cannot be read: SyntaxError"),
    ],
)
def test_a_config_file_that_raises_is_a_sentence(recipe, line, sentence):
    recipe.write_text(RECIPE.rstrip() + "\n\n" + line + "\n")
    with pytest.raises(UserError, match=sentence):
        load_config(str(recipe))


def test_a_saved_config_scores_another_data_set_against_its_own_labels(tmp_path):
    """The file holds values where the recipe has references; an override reaches all of them."""
    toy = Path(__file__).parents[2] / "configs/finetune/toy/detr.py"
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(load_config(str(toy))))
    assert dump_config(load_config(str(saved))) == saved.read_text()
    changes = ["dataloader.test.dataset.names=toy_test", "train.output_dir=new", "train.seed=7"]
    loaders = to_plain(load_config(str(saved), changes)).get("dataloader")
    assert loaders["evaluator"]["dataset_name"] == "toy_test"
    assert loaders["evaluator"]["output_dir"] == "new/evaluation"
    assert loaders["train"]["seed"] == 7
    own = load_config(str(saved), ["dataloader.train.seed=3", "dataloader.evaluator.output_dir=x"])
    saved.write_text(dump_config(own))
    again = to_plain(load_config(str(saved), ["train.seed=9", "train.output_dir=new"]))
    assert again["dataloader"]["train"]["seed"] == 3
    assert again["dataloader"]["evaluator"]["output_dir"] == "x"
