"""A run keeps the stored boxes that it began with, and a checkpoint names them."""

import shutil

import numpy as np
import pytest
import torch

from d2_unsupdet.engine.pinned_boxes import PinnedBoxesHook
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import PriorStore, StoredBoxes
from tests.trainer_toys import noisy_mapper

PIXELS = np.zeros((10, 10, 3), np.uint8)


class Boxed:
    """Samples that say how high their first box scores."""

    def __init__(self, source):
        self.source = source

    def __call__(self, record):
        found = self.source(record, PIXELS, np.random.default_rng(0))
        return {**noisy_mapper(record), "score": torch.tensor(found.scores[0])}


def publish(path, records, number, score):
    store = PriorStore(path)
    with store.write(number, {}) as writer:
        for record in records:
            writer.add(record, 10, 10, np.array([[0, 0, 1, 1]]), np.array([score]))
    return store.open(number).sha256


@pytest.fixture
def store(tmp_path, records):
    for record in records:
        record["file_name"] = str(tmp_path / record["file_name"])
    publish(tmp_path / "boxes", records, 0, 0.25)
    return PriorStore(tmp_path / "boxes")


@pytest.fixture
def make_run(make_trainer, store):
    def make(state=None, *, workers=0, **source):
        mapper = Boxed(StoredBoxes(path=store.path, **source))
        trainer = make_trainer(mapper=mapper, batch=2, workers=workers)
        trainer.register_hooks([PinnedBoxesHook()])
        trainer.scores = []
        opened = trainer.loader.from_step

        def watched(step):
            for batch in opened(step):
                trainer.scores += [float(sample["score"]) for sample in batch]
                yield batch

        trainer.loader.from_step = watched
        if state is not None:
            trainer.load_state_dict(state)
        return trainer

    return make


@pytest.fixture
def state(make_run):
    """A checkpoint after two steps on generation 0."""
    trainer = make_run()
    trainer.train(0, 2)
    trainer.iter = 1
    return trainer.state_dict()


def test_a_checkpoint_names_generation_and_hash(state, store):
    assert state["notes"]["priors"] == {"generation": 0, "sha256": store.open(0).sha256}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_generation_published_later_changes_nothing(state, make_run, store, records, workers):
    publish(store.path, records, 1, 0.75)
    resumed = make_run(state, workers=workers)
    resumed.train(2, 4)
    assert set(resumed.scores) == {0.25}
    new = make_run()
    new.train(0, 1)
    assert set(new.scores) == {0.75} and new.notes["priors"]["generation"] == 1


def test_a_resume_without_its_boxes_is_a_sentence(state, make_run, store, records):
    publish(store.path, records, 1, 0.75)
    with pytest.raises(UserError, match="trained on generation 0 .* asks for generation=1"):
        make_run(state, generation=1).train(2, 3)
    shutil.rmtree(store.folder(0))
    with pytest.raises(UserError, match="Generation 0 .* is not there any more"):
        make_run(state).train(2, 3)
    publish(store.path, records, 0, 0.5)
    with pytest.raises(UserError, match="Generation 0 .* has other boxes now"):
        make_run(state).train(2, 3)


def test_boxes_replaced_beside_a_run_are_noticed_by_who_opens_them(make_run, store, records):
    trainer = make_run()
    trainer.train(0, 1)
    store.remove(0)
    publish(store.path, records, 0, 0.5)
    fresh = trainer.loader.dataset.mapper.source.pinned(**trainer.notes["priors"])
    with pytest.raises(UserError, match="has other boxes now"):
        fresh(records[0], PIXELS, np.random.default_rng(0))


def test_a_source_that_is_no_store_needs_no_note(make_trainer, state, caplog):
    trainer = make_trainer()
    trainer.register_hooks([PinnedBoxesHook()])
    trainer.load_state_dict(state)
    trainer.train(2, 3)
    assert "priors" not in trainer.notes and "trained on stored boxes" in caplog.text
