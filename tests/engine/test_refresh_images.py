"""Images that a refresh cannot look at, or whose records are wrong: training goes on."""

import logging

import cv2
import numpy as np
import pytest

from d2_unsupdet.data import images
from d2_unsupdet.data.images import BadImage
from d2_unsupdet.priors.store import PriorStore
from tests.engine.test_refresh import LENGTH, given_store, make_run, pictures


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("images"))


def unreadable(monkeypatch, *names):
    """Reading these files fails until the names are taken out of the set."""
    failing, read = set(names), images.read_image

    def reader(path, **options):
        if str(path).rsplit("/", 1)[1] in failing:
            raise BadImage(path, "the disk is away")
        return read(path, **options)

    for module in ("refresh_mapper", "prior_mapper"):
        monkeypatch.setattr(f"d2_unsupdet.data.{module}.read_image", reader)
    return failing


def test_records_with_a_wrong_size_are_looked_at_as_training_reads_them(records, tmp_path):
    wrong = [{**record, "width": 33, "height": 44} for record in records]
    trainer, hook = make_run(wrong, tmp_path)
    trainer.train(0, LENGTH)
    assert len(hook.current) == 6 and (hook.current.counts() > 0).all()


def test_a_line_of_an_image_has_no_boxes_and_training_takes_the_next(records, tmp_path, caplog):
    path = records[0]["file_name"].rsplit("/", 1)[0] + "/line.png"
    cv2.imwrite(path, np.zeros((4, 404, 3), np.uint8))
    with caplog.at_level(logging.WARNING):
        trainer, hook = make_run([*records[:3], {"file_name": path, "image_id": 9}], tmp_path)
        trainer.train(0, LENGTH)
    assert len(hook.current) == 4 and (hook.current.counts() == 0).sum() == 1
    with pytest.raises(BadImage, match="too few boxes"):
        trainer.loader.dataset.mapper({"file_name": path})
    assert "1 images cannot be looked at" in caplog.text and "404x4 pixels" in caplog.text
    assert "evaluation" not in caplog.text


def test_a_file_that_was_away_during_the_first_refresh_is_no_unknown_image(
    records, tmp_path, monkeypatch
):
    failing = unreadable(monkeypatch, "0.png")
    trainer, hook = make_run(records, tmp_path)
    hook.before_train()
    failing.clear()
    with pytest.raises(BadImage, match="too few boxes"):  # an entry without any
        trainer.loader.dataset.mapper(records[0])
    trainer.train(0, LENGTH)
    assert len(hook.store.open(0)) == len(hook.store.open(2)) == 6
    assert len(hook.store.open(1).lookup(records[0], 80, 64)) > 0  # it was back


@pytest.mark.parametrize("sized", [True, False])
def test_a_file_that_was_away_later_keeps_its_boxes(records, tmp_path, monkeypatch, sized):
    if sized:
        records = [{**r, "width": 80, "height": 64 + 8 * (i % 2)} for i, r in enumerate(records)]
    failing = unreadable(monkeypatch)
    trainer, hook = make_run(records, tmp_path)
    hook.before_train()
    before = hook.current.lookup(records[0], 80, 64)
    failing.add("0.png")
    hook._make(1)
    hook._make(2)
    after = hook.current.lookup(records[0], 80, 64)
    np.testing.assert_array_equal(after.boxes, before.boxes if sized else np.zeros((0, 4)))
    failing.clear()
    hook._make(3)
    assert len(hook.current.lookup(records[0], 80, 64)) > 0 and len(hook.current) == 6


def test_boxes_of_a_store_need_no_look_at_the_image(records, tmp_path):
    path = records[0]["file_name"].rsplit("/", 1)[0] + "/line.png"
    cv2.imwrite(path, np.zeros((4, 404, 3), np.uint8))
    longer = [*records, {"file_name": path, "image_id": 9}]
    trainer, hook = make_run(longer, tmp_path, start=given_store(longer, tmp_path / "given"))
    trainer.train(0, LENGTH)
    for number in (0, 1, 2):
        assert len(PriorStore(tmp_path / "priors", root=hook.store.root).open(number)) == 7
        assert len(hook.store.open(number).lookup(path, 404, 4)) == 3
