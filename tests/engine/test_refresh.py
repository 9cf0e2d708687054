"""Priors that a run makes anew: what a batch sees, resume, kills, ranks."""

import json
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T

from d2_unsupdet.data import PriorMapper, RefreshMapper, build_test_loader, build_train_loader
from d2_unsupdet.engine.build import _build_refresh
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.refresh import PriorRefreshHook
from d2_unsupdet.engine.trainer import Trainer
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.store import PriorStore
from d2_unsupdet.priors.stored import StoredBoxes
from tests.pretext.tiny_boxes import tiny_pretext
from tests.ranks import run_ranks

CONFIG = "configs/pretrain/join_det/toy_deformable_detr.py"
LENGTH, PERIOD = 5, 2  # generations 0, 1, 2 before steps 0, 2, 4


def pictures(folder, count=6):
    """Records of images with two bright rectangles each."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, records = np.random.default_rng(0), []
    for number in range(count):
        pixels = draw.integers(0, 60, (64 + 8 * (number % 2), 80, 3), dtype=np.uint8)
        for _ in range(2):
            x, y = draw.integers(0, 48, 2)
            pixels[y : y + 24, x : x + 32] = draw.integers(90, 255, 3)
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), pixels)
        records.append({"file_name": str(path), "image_id": number})
    return records


def refresh_loader(records):
    mapper = RefreshMapper(augmentations=[T.ResizeShortestEdge(64, 96)])
    return build_test_loader(dataset=records, mapper=mapper, num_workers=0)


def make_run(records, output, *, workers=0, seed=0, start="", settings=None, period=PERIOD):
    """A trainer and its refresh hook around a tiny detector; every batch is kept."""
    model = tiny_pretext("join_det", "deformable_detr", seed=seed, priors__stride=8)
    source = StoredBoxes(path=output / "priors")
    mapper = PriorMapper(source=source, augmentations=[], count=5, crop_size=32)
    loader = build_train_loader(
        dataset=records, mapper=mapper, total_batch_size=2, num_workers=workers
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    trainer = Trainer(
        model=model, optimizer=optimizer, loader=loader, multiplier=lambda _: 1.0, length=LENGTH
    )
    hook = PriorRefreshHook(
        period,
        folder=output / "priors",
        loader=refresh_loader(records),
        start=start,
        settings=settings,
    )
    trainer.register_hooks([hook])
    trainer.seen = []
    opened = loader.from_step

    def watched(step):
        for batch in opened(step):
            trainer.seen.append((trainer.iter, batch))
            yield batch

    loader.from_step = watched
    return trainer, hook


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("finished")
    records = pictures(output / "images")
    trainer, _ = make_run(records, output, workers=1)
    trainer.train(0, LENGTH)
    return records, output, trainer


def test_every_batch_has_the_priors_of_its_generation(finished):
    """Also those that a worker had loaded ahead with the old ones."""
    records, output, trainer = finished
    store = PriorStore(output / "priors")
    assert store.generations == [0, 1, 2]
    assert [step for step, _ in trainer.seen] == list(range(LENGTH))
    for step, batch in trainer.seen:
        generation = store.open(step // PERIOD)
        for sample in batch:
            found = generation.lookup(sample, sample["width"], sample["height"])
            expected = found.scaled(sample["width"], sample["height"]).boxes[:5]
            np.testing.assert_allclose(sample["priors"], expected, atol=1e-3)
    contents = [store.open(n).manifest["content"] for n in (0, 1, 2)]
    assert len(set(contents)) == 3


def test_the_state_names_generation_and_hash(finished):
    _, output, trainer = finished
    note = trainer.state_dict()["notes"]["priors"]
    store = PriorStore(output / "priors")
    assert note == {"generation": 2, "sha256": store.open(2).sha256}
    settings = store.open(1).settings
    assert settings["previous"] == store.open(0).sha256 and settings["images"] == 6


@pytest.mark.parametrize("length, last", [(4, 1), (5, 2), (6, 2)])
def test_no_refresh_serves_less_than_half_a_period(finished, tmp_path, length, last):
    """Epochs are rounded to steps: the last one may lie a step before the end."""
    records, _, _ = finished
    trainer, hook = make_run(records, tmp_path)
    trainer.length, made = length, []
    hook._make = made.append
    hook.current = type("Zero", (), {"number": 0})
    for trainer.iter in range(length):
        hook.after_step()
    assert len(made) == last
    made.clear()
    hook.period, trainer.length = 62, 63  # 997 images in batches of 16, an epoch of 62.3 steps
    for trainer.iter in range(63):
        hook.after_step()
    assert made == []


def interrupted(records, output, *, stop):
    """The state after `stop` steps, as a checkpoint holds it."""
    trainer, _ = make_run(records, output)
    trainer.train(0, stop)
    trainer.iter = stop - 1
    return trainer.state_dict()


def resumed(records, output, state):
    trainer, hook = make_run(records, output, seed=1)  # other weights, which the state replaces
    trainer.load_state_dict(state)
    trainer.train(state["iteration"] + 1, LENGTH)
    return trainer, hook


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_resumed_run_has_the_same_generations_and_weights(finished, tmp_path, stop):
    records, output, whole = finished
    trainer, _ = resumed(records, tmp_path, interrupted(records, tmp_path, stop=stop))
    for number in (1, 2):
        expected = PriorStore(output / "priors").open(number).sha256
        assert PriorStore(tmp_path / "priors").open(number).sha256 == expected
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name


def test_a_finished_generation_is_taken_up_and_an_unfinished_one_made_again(finished, tmp_path):
    records, output, _ = finished
    state = interrupted(records, tmp_path, stop=1)
    shutil.copytree(output / "priors", tmp_path / "priors", dirs_exist_ok=True)
    marked = tmp_path / "priors/generation_0001/mark"  # finished, later than the checkpoint
    marked.touch()
    shutil.rmtree(tmp_path / "priors/generation_0002")
    partial = tmp_path / "priors/generation_0002.partial"
    partial.mkdir()
    (partial / "shard_00000.bin").write_bytes(b"half of it")
    resumed(records, tmp_path, state)
    assert marked.exists() and not partial.exists()
    expected = PriorStore(output / "priors").open(2).sha256
    assert PriorStore(tmp_path / "priors").open(2).sha256 == expected


def test_what_was_made_in_another_way_is_made_again(finished, tmp_path):
    records, output, _ = finished
    shutil.copytree(output / "priors", tmp_path / "priors")
    trainer, hook = make_run(records, tmp_path, settings={"momentum": 0.9})
    trainer.train(0, 1)
    assert hook.current.settings["momentum"] == 0.9
    expected = PriorStore(output / "priors").open(0).manifest["content"]
    assert hook.current.manifest["content"] == expected


def moved(records, folder):
    """The same names and pixels in another folder."""
    shutil.copytree(records[0]["file_name"].rsplit("/", 1)[0], folder)
    names = [record["file_name"].rsplit("/", 1)[1] for record in records]
    return [{**r, "file_name": str(folder / n)} for r, n in zip(records, names, strict=True)]


@pytest.mark.parametrize("what", ["folder", "sizes", "weights", "label"])
def test_a_generation_of_other_images_or_weights_is_made_again(finished, tmp_path, what):
    """Same-named files of two folders have the same names below their common root."""
    records, output, _ = finished
    shutil.copytree(output / "priors", tmp_path / "priors")
    if what == "folder":
        records = moved(records, tmp_path / "images")
    if what == "sizes":
        records = [{**record, "width": 80, "height": 64} for record in records]
    trainer, hook = make_run(records, tmp_path, seed=3 if what == "weights" else 0)
    if what == "label":
        trainer.model.label = 1
    hook._make(0)
    assert hook.current.sha256 != PriorStore(output / "priors").open(0).sha256
    assert len(hook.current) == 6


def test_a_checkpoint_without_its_generation_is_refused(finished, tmp_path):
    records, output, _ = finished
    state = interrupted(records, tmp_path, stop=3)
    (tmp_path / "priors/generation_0001").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="generation 1 of .* not there any more"):
        resumed(records, tmp_path, state)
    shutil.copytree(output / "priors/generation_0000", tmp_path / "priors/generation_0001")
    with pytest.raises(UserError, match="not there any more"):
        resumed(records, tmp_path, state)


BOX = np.array([[0.1, 0.1, 0.5, 0.6], [0.12, 0.1, 0.5, 0.6], [0.2, 0.5, 0.9, 1.0]], np.float32)


def given_store(records, folder, orders=None):
    """Three boxes an image, two of them nearly the same."""
    store = PriorStore(folder, root=str(records[0]["file_name"]).rsplit("/", 1)[0])
    with store.write(0, {}, orders=0 if orders is None else len(orders)) as writer:
        for record in records:
            height, width = cv2.imread(record["file_name"]).shape[:2]
            scores = np.array([90, 70, 50], np.float32)
            writer.add(record, width, height, BOX, scores, orders=orders)
    return str(folder)


def test_a_store_that_nothing_is_compared_with_stays_as_it_is_with_all_its_orders(
    finished, tmp_path
):
    """The row "fixed" of the paper's table is DETReg: no box fused, an order drawn each time."""
    records, _, _ = finished
    orders = np.array([[0, 1, 2], [2, 1, 0]])
    start = given_store(records, tmp_path / "given", orders)
    trainer, hook = make_run(records, tmp_path, start=start, period=0)
    trainer.model.prior_update.most = 2
    trainer.train(0, LENGTH)
    assert PriorStore(tmp_path / "priors").generations == [0]
    for row in range(len(records)):
        found = hook.current.read(row)
        np.testing.assert_array_equal(found.boxes, BOX)
        np.testing.assert_array_equal(found.scores, [90, 70, 50])
        np.testing.assert_array_equal(found.orders, orders)
        np.testing.assert_array_equal(found.kinds, [2, 2, 2])


def test_a_store_as_the_beginning_gives_its_best_boxes_unfused(finished, tmp_path):
    records, _, _ = finished
    start = given_store(records, tmp_path / "given", np.array([[2, 1, 0]]))
    trainer, hook = make_run(records, tmp_path, start=start)
    trainer.model.prior_update.most = 2
    trainer.train(0, 1)
    found = hook.current.read(0)
    np.testing.assert_array_equal(found.boxes, BOX[[2, 1]])  # as drawn: the first score is 90
    np.testing.assert_array_equal(found.scores, [1, 0.5])
    # Never compared: the same boxes are another generation.
    trainer, fixed = make_run(records, tmp_path, start=start, period=0)
    trainer.train(0, 1)
    assert len(fixed.current.read(0)) == 3


def test_priors_without_any_box_are_a_sentence(finished, tmp_path):
    records, _, _ = finished
    trainer, _ = make_run(records, tmp_path)
    trainer.model.priors.attention = lambda features: None
    with pytest.raises(UserError, match="Generation 0 of the priors has no box in any of 6 images"):
        trainer.train(0, 1)


def test_a_model_or_mapper_without_priors_is_a_sentence(finished, tmp_path):
    records, _, _ = finished
    trainer, hook = make_run(records, tmp_path)
    trainer.loader.dataset.mapper.source = lambda *_: None
    with pytest.raises(UserError, match=r"mapper.source to StoredBoxes"):
        trainer.train(0, 1)
    trainer.model = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="Linear has no priors to refresh"):
        hook.before_train()


def make_generations(rank, records, folder):
    """Generation 0 and 1, with the weights as they are; their hashes."""
    from pathlib import Path

    trainer, hook = make_run(records, Path(folder))
    hook.before_train()
    hook._make(1)
    return {"hashes": [hook.store.open(n).sha256 for n in (0, 1)]}


def test_two_processes_make_what_one_makes(finished, tmp_path):
    records, _, _ = finished
    alone = make_generations(0, records, tmp_path / "one")
    both = run_ranks(make_generations, records, str(tmp_path / "two"))
    assert both[0] == both[1] == alone


def test_the_recipe_names_its_refresh():
    config = LazyConfig.load(CONFIG)
    assert config.train.refresh.period == "2 epochs"
    assert instantiate(config.model.prior_update).momentum == 0.45
    assert json.dumps(config.train.refresh.start) == '""'


def test_the_whole_mapper_is_part_of_the_settings(tmp_path):
    records = pictures(tmp_path)
    trainer = SimpleNamespace(loader=SimpleNamespace(dataset=SimpleNamespace(records=records)))
    made = []
    for extra in ([], ["dataloader.refresh.mapper.max_aspect=20"]):
        hook = _build_refresh(load_config(CONFIG, extra), trainer, 1)
        made.append(hook.settings["mapper"])
    assert made[0] != made[1] and made[0]["augmentations"][0]["max_size"] == 160
