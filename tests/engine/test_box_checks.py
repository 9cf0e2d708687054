"""Boxes and detector are looked at before a run begins; each refusal names keys and values."""

from pathlib import Path

import numpy as np
import pytest

from d2_unsupdet.data import get_dataset
from d2_unsupdet.data.plan import BatchPlan
from d2_unsupdet.engine.box_checks import check_images
from d2_unsupdet.engine.checks import prepare
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.record import warn_of_repeats
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import PriorStore

PRETRAIN = Path(__file__).parents[2] / "configs/pretrain"
NAMES = "toy_unlabeled:images=6:size=64"
BOX = np.array([[0.1, 0.1, 0.9, 0.9]], np.float32)


def config(recipe, tmp_path, *overrides):
    options = [f"dataloader.train.dataset.names={NAMES}", f"train.output_dir={tmp_path / 'run'}"]
    options += ["dataloader.test=null", "dataloader.evaluator=null", *overrides]
    return load_config(str(PRETRAIN / recipe), options)


@pytest.fixture
def store(tmp_path):
    """Of the first `images` of the data set."""

    def make(images):
        path, subset = tmp_path / "store", {"subset": str(images)}
        with PriorStore(path).write(0, subset) as writer:
            for record in get_dataset(NAMES)[:images]:
                writer.add(record, record["width"], record["height"], BOX, np.ones(1))
        return path

    return make


@pytest.mark.parametrize(
    "recipe, key",
    [
        ("detreg/toy_detr.py", "dataloader.train.mapper.source.path"),
        ("join_det/toy_detr.py", "train.refresh.start"),
    ],
)
def test_a_store_is_there_and_of_these_images_before_a_run_begins(recipe, key, store, tmp_path):
    absent = config(recipe, tmp_path, f"{key}={tmp_path / 'none'}")
    with pytest.raises(UserError, match="none holds no published boxes"):
        prepare(absent)
    assert not (tmp_path / "run").exists()
    prepare(absent, resume=True)  # says it itself, by the hash of what it was trained on
    cfg, records = config(recipe, tmp_path, f"{key}={store(4)}"), get_dataset(NAMES)
    prepare(cfg)
    check_images(cfg, records[:4])
    with pytest.raises(UserError, match=r"holds 4 images \(subset 4\), of 6 .*subset=4"):
        check_images(cfg, records)


def test_another_generation_than_the_stores_is_refused(store, tmp_path):
    options = [f"dataloader.train.mapper.source={{path: {store(6)}, generation: 3}}"]
    cfg = config("detreg/toy_detr.py", tmp_path, *options)
    with pytest.raises(UserError, match="has no generation 3; it has"):
        prepare(cfg)


@pytest.mark.parametrize(
    "method, override, said",
    [
        (
            "up_detr",
            "model.detector.query_source.num_queries=33",
            "num_queries=33 cannot .* dataloader.train.mapper.exactly=10 .* is 30 or 40",
        ),
        (
            "siamese_detr",
            "model.detector.query_source.num_queries=7",
            "num_queries=7 cannot .*mapper.boxes.count=10 regions: .* is 10",
        ),
        ("detreg", "dataloader.train.mapper.crop_size=0", "set model.embedding_weight=0 too"),
        ("up_detr", "dataloader.train.mapper.crop_size=0", "UPDETR learns.*leave the key out"),
        ("siamese_detr", "dataloader.train.total_batch_size=1", "total_batch_size=2 or more"),
    ],
)
def test_what_does_not_fit_is_a_sentence(method, override, said, store, tmp_path):
    options = [] if method == "up_detr" else [f"dataloader.train.mapper.source.path={store(6)}"]
    prepare(config(f"{method}/toy_detr.py", tmp_path, *options))
    with pytest.raises(UserError, match=said):
        prepare(config(f"{method}/toy_detr.py", tmp_path, *options, override))


@pytest.mark.parametrize(
    "method, overrides",
    [
        ("detreg", ["dataloader.train.mapper.crop_size=0", "model.embedding_weight=0"]),
        ("siamese_detr", ["dataloader.train.total_batch_size=1", "model.global_weight=0"]),
    ],
)
def test_what_the_sentence_says_helps(method, overrides, store, tmp_path):
    source = f"dataloader.train.mapper.source.path={store(6)}"
    prepare(config(f"{method}/toy_detr.py", tmp_path, source, *overrides))


def test_a_batch_larger_than_the_data_set_is_said(caplog):
    warn_of_repeats(BatchPlan(seed=0, size=4, batch=4))
    assert not caplog.text
    warn_of_repeats(BatchPlan(seed=0, size=2, batch=4))
    assert "total_batch_size=4 is more than the 2 images there are" in caplog.text
