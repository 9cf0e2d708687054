"""`images=auto` counts the training images of each class, of the images that are trained on."""

import pytest
from detectron2.config import LazyCall

from d2_unsupdet.data import get_dataset
from d2_unsupdet.detectors import FederatedClasses
from d2_unsupdet.engine.build import build_model, build_trainer
from d2_unsupdet.engine.config import dump_config, load_config
from d2_unsupdet.engine.run import prepare
from d2_unsupdet.errors import UserError
from tests.engine.test_category_ids import CONFIGS, SMALL

TRAINING = "toy_train:images=12:size=64"


def load(tmp_path, *options, **federated):
    names = {"train": TRAINING, "test": "toy_val:images=4:size=64"}
    sets = [f"dataloader.{part}.dataset.names={name}" for part, name in names.items()]
    options = [*sets, *SMALL, f"train.output_dir={tmp_path}", *options]
    cfg = load_config(str(CONFIGS / "quickstart/finetune_detector.py"), options)
    cfg.model.criterion.federated = LazyCall(FederatedClasses)(power=1.0, **federated)
    return cfg


def counted(cfg):
    model = build_model(cfg)
    build_trainer(cfg, model)
    return model.criterion.federated.weight.tolist()


def of_images(records):
    labels = [
        {a["category_id"] for a in record["annotations"] if not a.get("iscrowd")}
        for record in records
    ]
    return [sum(label in shown for shown in labels) for label in range(8)]


@pytest.mark.parametrize("auto", [{}, {"images": "auto"}])
@pytest.mark.parametrize("subset", [None, 5])
def test_counts_images_not_boxes(auto, subset, tmp_path):
    options = [] if subset is None else [f"dataloader.train.dataset.subset={subset}"]
    records = get_dataset(TRAINING, subset=subset)
    expected = of_images(records)
    assert counted(prepare(load(tmp_path, *options, **auto))) == expected
    assert sum(expected) < sum(len(r["annotations"]) for r in records)  # a class twice in one


def test_a_saved_config_counts_the_data_that_it_is_given(tmp_path):
    saved = tmp_path / "config.yaml"
    saved.write_text(dump_config(prepare(load(tmp_path / "run"))))
    names = "toy_train:images=20:size=64:seed=3"
    again = load_config(str(saved), [f"dataloader.train.dataset.names=[{names!r}]"])
    assert (
        counted(prepare(again)) == of_images(get_dataset(names)) != of_images(get_dataset(TRAINING))
    )


def test_crowds_do_not_count(tmp_path, monkeypatch):
    from d2_unsupdet.data import catalog

    real = catalog.DatasetCatalog.get

    def crowded(name):
        records = real(name)
        for annotation in records[0]["annotations"]:
            annotation["iscrowd"] = 1
        return records

    monkeypatch.setattr(catalog.DatasetCatalog, "get", crowded)
    assert counted(prepare(load(tmp_path))) == of_images(get_dataset(TRAINING)[1:])


def test_numbers_of_ones_own(tmp_path):
    assert counted(prepare(load(tmp_path, images=[3, 4]))) == [3, 4]


@pytest.mark.parametrize(
    "images", [5, None, "autoo", [1, -3], [0, 0], [1.5, 2]], ids=lambda value: str(value)
)
def test_numbers_that_are_none_are_a_sentence(images, tmp_path):
    with pytest.raises(UserError, match="federated.images=.* is no list of numbers of images"):
        build_model(prepare(load(tmp_path, images=images)))
