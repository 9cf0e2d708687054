"""Pictures of a run: which ones, of what, where they go; and a run that does not notice them."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage, TensorboardXWriter
from PIL import Image
from torch import nn

from d2_unsupdet.data.loader import build_test_loader
from d2_unsupdet.data.mappers import DetectionMapper
from d2_unsupdet.data.semantic import SemanticMapper
from d2_unsupdet.engine import answer_pictures
from d2_unsupdet.engine.answer_pictures import SUREST, AnswerPictures
from d2_unsupdet.engine.gallery import LARGEST, Drawn, Gallery
from d2_unsupdet.engine.pictures import PicturesHook, looking
from d2_unsupdet.engine.whole_images import short_names, spread_places


def index(folder):
    return json.loads((folder / "pictures/index.json").read_text())


def drawn(name, side=8, **more):
    return Drawn(name, np.full((side, side, 3), 90, np.uint8), f"{name}: a thing", **more)


def trainer_of(sample, folder):
    loader = SimpleNamespace(plan=[[0, 1]], dataset={0: sample, 1: {"image": None}})
    return SimpleNamespace(loader=loader, start_iter=0, storage=EventStorage(0), length=10)


IMAGE = torch.full((3, 64, 64), 90, dtype=torch.uint8)
BOXES = torch.tensor([[2.0, 2, 20, 20]])
PAIR = {"views": torch.stack([IMAGE, IMAGE]), "flipped": torch.tensor([False, True])}


@pytest.mark.parametrize(
    "sample, groups",
    [
        ({"image": IMAGE, "priors": BOXES}, ["priors"]),
        ({**PAIR, "overlap": BOXES.repeat(2, 1), "valid": True}, ["views"]),
        ({**PAIR, "overlap": BOXES.repeat(2, 1), "priors": BOXES.repeat(2, 1, 1)}, None),
        ({"image": IMAGE}, []),
    ],
)
def test_what_a_pretext_sees_is_drawn_at_the_start(tmp_path, sample, groups):
    hook = PicturesHook(0, gallery=Gallery(tmp_path), count=2)
    hook.trainer = trainer_of({**sample, "file_name": "a/x.jpg"}, tmp_path)
    hook.before_train()
    if groups == []:
        assert not (tmp_path / "pictures").exists()
        return
    entries = index(tmp_path)
    assert [e["group"] for e in entries] == (groups or ["views", "priors"])
    captions = {"priors": "x.jpg: boxes to find"}
    for entry in entries:
        assert (entry["image"], entry["iteration"]) == ("x.jpg", 0)
        assert (tmp_path / "pictures" / entry["file"]).is_file()
        assert entry["caption"] == captions.get(
            entry["group"], "x.jpg: two views and where they overlap"
        )


def write_images(folder, values, side=32):
    """Grey images with an object of class 4 each, as records."""
    records = []
    for number, value in enumerate(values):
        path = folder / f"{number}.png"
        Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path)
        box = {"bbox": [1, 1, 9, 9], "bbox_mode": 0, "category_id": 4}
        size = {"height": side, "width": side}
        records.append({"file_name": str(path), "image_id": number, "annotations": [box], **size})
    return records


def answers_for(records, **options):
    mapper = DetectionMapper(is_train=False, augmentations=[])
    loader = build_test_loader(dataset=records, mapper=mapper, num_workers=0)
    return AnswerPictures(loader=loader, **options)


def answer(count):
    found = Instances((32, 32), pred_boxes=Boxes(torch.rand(count, 4)), scores=torch.rand(count))
    found.pred_classes = torch.zeros(count, dtype=torch.int64)
    return found


@pytest.mark.parametrize("agnostic", [True, False])
def test_answers_without_classes_are_the_surest_objects(tmp_path, monkeypatch, agnostic):
    given = {}

    def draw(image, real, predicted, names, threshold, top):
        given.update(classes=real.gt_classes.tolist(), names=list(names), top=top)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(answer_pictures, "draw_predictions", draw)
    evaluator = SimpleNamespace(class_agnostic=agnostic)
    names = list("abcde")
    answers = answers_for(write_images(tmp_path, [0]), class_names=names, evaluator=evaluator)

    def model(batch):
        return [{"instances": answer(SUREST + 5)}]

    (picture,) = answers.predictions(model, 2)
    wanted = ([0], ["object"], SUREST) if agnostic else ([4], names, None)
    assert (given["classes"], given["names"], given["top"]) == wanted
    assert picture.name == "0.png"
    assert picture.alt.startswith(f"0.png, labelled: 1 {'object' if agnostic else 'e'}; predicted:")


def test_who_is_sure_of_nothing_shows_the_surest(tmp_path):
    answers = answers_for(write_images(tmp_path, [0]), class_names=list("abcde"))
    unsure, sure = answer(9), answer(9)
    unsure.scores = torch.linspace(0, 0.2, 9)
    sure.scores = torch.linspace(0.2, 0.38, 9)  # four of them reach 0.3
    for found, said in ((unsure, "predicted: 3 a"), (sure, "predicted: 4 a")):
        (picture,) = answers.predictions(lambda batch, f=found: [{"instances": f}], 1)
        assert picture.alt.endswith(said)


class Judged(nn.Module):
    """Its loss is the brightness of the image."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.asked = []

    def forward(self, batch):
        (one,) = batch
        if not self.training:
            return [{"instances": answer(0)}]
        self.asked.append(one["image_id"])
        assert len(one["instances"]) == 1
        return {"loss_a": one["image"].float().mean(), "loss_b": torch.tensor(1.0)}


def test_label_maps_have_failures_too(tmp_path):
    records = write_images(tmp_path, [10, 200])
    for record in records:
        del record["annotations"]
        record["sem_seg_file_name"] = record["file_name"].replace(".png", "_labels.png")
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(record["sem_seg_file_name"])

    class Segmentor(Judged):
        def forward(self, batch):
            (one,) = batch
            if not self.training:
                return [{"sem_seg": torch.zeros(2, 32, 32)}]
            return {"loss_sem_seg": one["image"].float().mean() + one["sem_seg"].float().mean()}

    loader = build_test_loader(dataset=records, mapper=SemanticMapper(labelled=False))
    answers = AnswerPictures(loader=loader, class_names=["a", "b"])
    with looking(model := Segmentor()):
        found = list(answers.failures(model, 1, among=2))
    assert [(d.name, d.value) for d in found] == [("1.png", 200.0)]
    assert found[0].image.shape[1] > 3 * 224  # image, labels, prediction and the names


def test_failures_are_the_images_with_the_largest_losses(tmp_path):
    records = write_images(tmp_path, [10, 200, 30, 90, 120, 60])
    broken = tmp_path / "3.png"
    broken.write_bytes(b"no image")
    model, answers = Judged().train(), answers_for(records, class_names=list("abcde"))
    with looking(model):
        found = list(answers.failures(model, 2, among=100))
    assert [(d.name, d.value) for d in found] == [("1.png", 201.0), ("4.png", 121.0)]
    assert found[0].caption == "1.png: loss 201.00 (a 200.00, b 1.00), number 1 of 5 images"
    assert found[0].alt == "1.png, labelled: 1 e; predicted: nothing"
    assert model.asked == [0, 1, 2, 4, 5] and model.training
    model.asked.clear()
    with looking(model):
        list(answers.failures(model, 2, among=3))
    assert model.asked == [0, 2, 4]  # evenly spaced


def test_images_are_called_alike_and_told_apart():
    assert short_names(["a/1.jpg", "b/1.jpg", "b/2.jpg"]) == ["a/1.jpg", "b/1.jpg", "2.jpg"]
    assert spread_places(10, 4) == [0, 2, 5, 7] and spread_places(2, 4) == [0, 1]


def test_the_folder_keeps_what_is_compared_and_drops_what_runs_again(tmp_path):
    gallery, storage = Gallery(tmp_path), EventStorage(0)
    for done in (0, 5, 10, 15):
        gallery.add("eigen", drawn("a"), iteration=done, storage=storage)
    gallery.add("predictions", drawn("a", value=2.0, alt="words"), iteration=15, storage=storage)
    gallery.keep_only("eigen", {0, 10, 15})

    def left():
        return [(e["group"], e["iteration"]) for e in index(tmp_path)]

    assert left() == [("eigen", 0), ("eigen", 10), ("eigen", 15), ("predictions", 15)]
    assert index(tmp_path)[-1]["caption"] == "a: a thing, after 15 steps"
    assert index(tmp_path)[0]["caption"] == "a: a thing"
    gallery.cut(10)
    assert left() == [("eigen", 0), ("eigen", 10)]


def test_a_resumed_run_drops_the_pictures_of_steps_that_run_again(tmp_path):
    gallery, storage = Gallery(tmp_path), EventStorage(0)
    for done in (0, 5, 10):
        gallery.add("eigen", drawn("a"), iteration=done, storage=storage)
    hook = PicturesHook(0, gallery=gallery, count=2)
    hook.trainer = trainer_of({"image": IMAGE}, tmp_path)
    hook.trainer.start_iter = 5
    hook.before_train()
    assert [e["iteration"] for e in index(tmp_path)] == [0, 5]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_tensorboard_gets_the_pictures_and_lets_them_go(tmp_path):
    writer = TensorboardXWriter(str(tmp_path / "tensorboard"))
    gallery = Gallery(tmp_path, [writer])
    picture = np.zeros((24, 40, 3), np.uint8)
    picture[:, :20, 0], picture[:, 20:, 2] = 200, 100
    with EventStorage(7) as storage:
        gallery.add("views", Drawn("a.jpg", picture, "x"), iteration=8, storage=storage)
        gallery.add("views", drawn("b.jpg", side=2 * LARGEST), iteration=8, storage=storage)
        assert len(storage._vis_data) == 2
        writer.write()
        assert len(storage._vis_data) == 0
    writer.close()
    images = read_images(tmp_path / "tensorboard")
    assert set(images) == {"views/a.jpg", "views/b.jpg"}
    assert set(images["views/a.jpg"]) == {7}
    assert np.array_equal(images["views/a.jpg"][7], picture)
    assert images["views/b.jpg"][7].shape == (LARGEST, LARGEST, 3)


def test_without_tensorboard_nothing_piles_up(tmp_path):
    with EventStorage(0) as storage:
        Gallery(tmp_path).add("views", drawn("a"), iteration=0, storage=storage)
        assert not storage._vis_data


def read_images(folder):
    """{tag: {step: RGB}} of an event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["images"]:
        for event in events.Images(tag):
            pixels = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
            found.setdefault(tag, {})[event.step] = pixels
    return found


def test_what_cannot_be_drawn_is_said_once_and_costs_no_run(tmp_path, caplog):
    def broken():
        yield drawn("a")
        raise ValueError("no ink")

    hook = PicturesHook(1, gallery=Gallery(tmp_path), count=2)
    hook.trainer = SimpleNamespace(storage=EventStorage(0))
    for done in (1, 2):
        hook._draw("predictions", broken(), done)
    assert caplog.text.count("no pictures of predictions from here on: ValueError: no ink") == 1
    assert [e["iteration"] for e in index(tmp_path)] == [1]


class Asked:
    """Answers of a detector, and what was asked of them."""

    def __init__(self):
        self.groups, self.among = [], []

    def predictions(self, model, count):
        self.groups.append("predictions")
        yield drawn("a")

    def failures(self, model, count, among):
        self.groups.append("failures")
        self.among.append(among)
        yield drawn("a", value=1.0)


def ended(folder, *, iteration, length, batch=16):
    """What the end of a run asks for that came to an iteration."""
    hook = PicturesHook(0, gallery=Gallery(folder), count=3, answers=(asked := Asked()))
    loader = SimpleNamespace(plan=SimpleNamespace(batch=batch))
    hook.trainer = SimpleNamespace(
        loader=loader,
        model=Judged(),
        ema=None,
        iter=iteration,
        length=length,
        storage=EventStorage(iteration),
    )
    hook.after_train()
    return asked


def test_a_run_that_was_stopped_has_no_pictures_of_its_end(tmp_path):
    assert ended(tmp_path, iteration=7, length=8).groups == []
    assert not (tmp_path / "pictures").exists()
    assert ended(tmp_path, iteration=8, length=8).groups == ["predictions", "failures"]
    assert [e["iteration"] for e in index(tmp_path)] == [8, 8]


@pytest.mark.parametrize("length, among", [(10, 12), (500, 160), (90_000, 1000)])
def test_losses_are_looked_at_for_a_fiftieth_of_the_images_trained_on(tmp_path, length, among):
    """No fewer than four for each picture, no more than a thousand."""
    assert ended(tmp_path, iteration=length, length=length).among == [among]


def test_a_run_does_not_notice_its_pictures(tmp_path):
    """A detector's whole run, with all kinds and with none: the same bits, the same metrics."""
    from tests.configs.test_two_steps import run

    options = [
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.dataset.names=toy_train:images=6:size=64",
        "dataloader.test.dataset.names=toy_val:images=6:size=64",
        "dataloader.train.dataset.subset=null",
        "dataloader.train.mapper.augmentations.0.short_edge_length=[48]",
        "dataloader.test.mapper.augmentations.0.short_edge_length=48",
        "train.max_iter=4",
        "train.eval_period=2",
        "train.report=false",
        "train.log_period=1",
        "train.checkpointer.period=100",
        "train.ema.enabled=true",
    ]
    found = {}
    for count in (0, 2):
        output = tmp_path / str(count)
        config = "quickstart/finetune_detector.py"
        summary = run(config, output, *options, f"train.pictures={count}")
        lines = [json.loads(line) for line in (output / "metrics.json").open()]
        for line in lines:
            line.pop("time"), line.pop("data_time")
        found[count] = summary["state_sha256"], json.dumps(lines)
    assert found[0] == found[2]

    output = tmp_path / "2"
    assert "no pictures of" not in (output / "log.txt").read_text()
    entries = index(output)
    groups = [e["group"] for e in entries]
    assert {g: groups.count(g) for g in groups} == {"predictions": 2, "attention": 2, "failures": 2}
    assert {e["iteration"] for e in entries} == {4}
    values = [e["value"] for e in entries if e["group"] == "failures"]
    assert values == sorted(values, reverse=True) and values[0] > 0
    images = read_images(output / "tensorboard")
    steps = {tag: sorted(by_step) for tag, by_step in images.items()}
    for entry in entries:
        tag = f"{entry['group']}/{entry['image']}"
        # At the steps of the scores; failures at the end only.
        assert steps.pop(tag) == ([3] if entry["group"] == "failures" else [1, 3])
        kept = np.asarray(Image.open(output / "pictures" / entry["file"]))
        if max(kept.shape) <= LARGEST:
            assert np.array_equal(images[tag][3], kept)
    assert not steps
    assert not (tmp_path / "0/pictures").exists()
