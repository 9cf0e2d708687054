"""Detectron2's YAML: keys are obeyed or refused, and the data give the class count."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_unsupdet.engine.checks import prepare
from d2_unsupdet.engine.config import dump_config, load_config
from d2_unsupdet.engine.yaml_config import model_from_yaml
from d2_unsupdet.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
TWO, THREE, STUFF = "two_things", "three_things", "three_stuffs"


@pytest.fixture(autouse=True)
def data_sets():
    classes = {"thing_classes": ["a", "b"]}, {"thing_classes": list("abc")}
    for name, metadata in zip((TWO, THREE), classes, strict=True):
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(**metadata)
    DatasetCatalog.register(STUFF, list)
    MetadataCatalog.get(STUFF).set(stuff_classes=list("abc"))
    yield
    for name in (TWO, THREE, STUFF):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def load(tmp_path):
    file = tmp_path / "d2.yaml"
    file.write_text("MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\nVERSION: 2\n")

    def run(*overrides):
        return load_config(str(file), [*overrides, f"train.output_dir={tmp_path / 'run'}"])

    return run


def test_device_and_benchmark_reach_the_run(load):
    assert (load().train.device, load().train.cudnn_benchmark) == ("auto", False)
    train = load("MODEL.DEVICE=cpu", "CUDNN_BENCHMARK=True").train
    assert (train.device, train.cudnn_benchmark) == ("cpu", True)


@pytest.mark.parametrize(
    "override",
    [
        "SOLVER.BIAS_LR_FACTOR=2.0",
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE=1.0",
        "SOLVER.REFERENCE_WORLD_SIZE=8",
        "DATALOADER.SAMPLER_TRAIN=RepeatFactorTrainingSampler",
        "TEST.AUG.ENABLED=True",
        "VIS_PERIOD=100",
        "MODEL.LOAD_PROPOSALS=True",
        "MODEL.KEYPOINT_ON=True",
    ],
)
def test_a_key_without_effect_is_refused(load, override):
    with pytest.raises(UserError, match=rf"^{override.split('=')[0]}=.* has no effect here; leave"):
        load(override)


def test_misspelt_architecture_and_no_length_are_sentences(load):
    with pytest.raises(UserError, match=r"'GeneralisedRCNN' is not known. .* 'GeneralizedRCNN'\?"):
        load("MODEL.META_ARCHITECTURE=GeneralisedRCNN")
    with pytest.raises(UserError, match="SOLVER.MAX_ITER=0 is no length"):
        load("SOLVER.MAX_ITER=0")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_load(path):
    load_config(str(path))


@pytest.mark.parametrize(
    "architecture, section, data",
    [
        ("GeneralizedRCNN", "ROI_HEADS", THREE),
        ("RetinaNet", "RETINANET", THREE),
        ("SemanticSegmentor", "SEM_SEG_HEAD", STUFF),
        ("DeformableDETR", "DETR", THREE),
    ],
)
def test_the_data_give_the_class_count(load, tmp_path, architecture, section, data):
    key, saved = f"MODEL.{section}.NUM_CLASSES", tmp_path / "config.yaml"
    for count in (3, 17):
        cfg = load(
            f"MODEL.META_ARCHITECTURE={architecture}",
            f"{key}={count}",
            f"DATASETS.TRAIN=('{data}',)",
        )
        saved.write_text(dump_config(cfg))
        for case in (cfg, load_config(str(saved))):
            if count == 3:
                prepare(case)
            else:
                with pytest.raises(UserError, match=f"{key}=17 contradicts data set '{data}', wh"):
                    prepare(case)


def test_the_class_count_follows_a_changed_data_set(load):
    arguments = "MODEL.ROI_HEADS.NUM_CLASSES=3", f"DATASETS.TRAIN=('{THREE}',)"
    prepare(load(*arguments))
    with pytest.raises(UserError, match="NUM_CLASSES=3 contradicts data set 'two_things'"):
        prepare(load(*arguments, f"dataloader.train.dataset.names={TWO}"))


@pytest.mark.parametrize("how", ["DATASETS.TRAIN=('{}',)", "dataloader.train.dataset.names={}"])
def test_the_class_count_of_a_file_is_that_of_its_own_data(tmp_path, how):
    file, saved = tmp_path / "own.yaml", tmp_path / "config.yaml"
    text = "MODEL:\n  META_ARCHITECTURE: RetinaNet\n{}DATASETS:\n  TRAIN: ('two_things',)\n"
    file.write_text(text.format("  RETINANET:\n    NUM_CLASSES: 2\n") + "VERSION: 2\n")
    options = [f"train.output_dir={tmp_path / 'run'}"]
    assert "num_classes" not in prepare(load_config(str(file), options)).model
    other = prepare(load_config(str(file), [how.format(THREE), *options]))
    assert other.model.num_classes == 3  # not chosen for these data, so theirs
    saved.write_text(dump_config(other))
    assert prepare(load_config(str(saved))).model.num_classes == 3
    with pytest.raises(UserError, match="num_classes=3 contradicts data set 'two_things'"):
        prepare(load_config(str(saved), [f"dataloader.train.dataset.names={TWO}"]))
    file.write_text(text.format("") + "VERSION: 2\n")  # Detectron2's default of 80 is no choice
    assert prepare(load_config(str(file), options)).model.num_classes == 2


def test_a_model_has_the_classes_of_the_data():
    text = "MODEL:\n  META_ARCHITECTURE: RetinaNet\n  BACKBONE:\n"
    text += "    NAME: build_retinanet_resnet_fpn_backbone\n  RESNETS:\n"
    text += "    DEPTH: 18\n    OUT_FEATURES: ['res3', 'res4', 'res5']\n"
    text += "  FPN:\n    IN_FEATURES: ['res3', 'res4', 'res5']\n"
    assert model_from_yaml(text, num_classes=3).num_classes == 3
    assert model_from_yaml(text).num_classes == model_from_yaml(text, "auto").num_classes == 80
