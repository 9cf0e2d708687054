"""`images=auto` counts the training images of each class, of the images that are trained on."""

import pytest
from detectron2.config import LazyCall

from d2_unsupdet.data import get_dataset
from d2_unsupdet.detectors import FederatedClasses
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.run import prepare
from d2_unsupdet.errors import UserError
from tests.engine.test_category_ids import CONFIGS

TRAINING = "toy_train:images=12:size=64"


def load(tmp_path, *options, **federated):
    names = {"train": TRAINING, "test": "toy_val:images=4:size=64"}
    options = [f"dataloader.{part}.dataset.names={name}" for part, name in names.items()] + [
        "dataloader.train.dataset.subset=null",
        f"train.output_dir={tmp_path}",
        *options,
    ]
    cfg = load_config(str(CONFIGS / "quickstart/finetune_detector.py"), options)
    cfg.model.criterion.federated = LazyCall(FederatedClasses)(**federated)
    return cfg


@pytest.mark.parametrize("auto", [{}, {"images": "auto"}])
@pytest.mark.parametrize("subset", [None, 5])
def test_counts_images_not_boxes(auto, subset, tmp_path):
    options = [] if subset is None else [f"dataloader.train.dataset.subset={subset}"]
    cfg = prepare(load(tmp_path, *options, **auto))
    records = get_dataset(TRAINING, subset=subset)
    labels = [[a["category_id"] for a in record["annotations"]] for record in records]
    expected = [sum(label in of_image for of_image in labels) for label in range(8)]
    assert list(cfg.model.criterion.federated.images) == expected
    assert sum(expected) < sum(map(len, labels))  # an image shows a class twice


def test_scoring_reads_no_labels_of_training(tmp_path):
    cfg = prepare(load(tmp_path, "dataloader.train.dataset.names=gone"), eval_only=True)
    assert "images" not in cfg.model.criterion.federated


def test_numbers_of_other_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match="images has 2 numbers, but the data has 8 classes; .*auto"):
        prepare(load(tmp_path, images=[3, 4]))
