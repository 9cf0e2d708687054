"""The answers of real models: boxes of evaluation, attention of the very query, near images."""

import base64
import threading
import time

import numpy as np
import pytest
import torch

from d2_unsupdet.analysis.alike import Gallery
from d2_unsupdet.analysis.look import open_looker
from tests.demo.conftest import ROOT  # noqa: F401 (puts demo/ on the path)

from uploads import Limits, Refused  # isort: skip
from viewer import Viewer  # isort: skip


def viewer_of(run, photos, **options):
    looker = open_looker(run)
    gallery = Gallery(looker.net, side=64)
    gallery.add(sorted(photos.iterdir()))
    return Viewer(looker, gallery, **options)


@pytest.fixture(scope="module")
def viewer(run_of, photos):
    return viewer_of(run_of("deformable"), photos)


def test_boxes_points_and_neighbours(viewer, photos):
    data = (photos / "photo_2.png").read_bytes()
    answer = viewer.look(data)
    found = viewer.looker.shown.find(
        viewer.looker.shown.mapper({"file_name": str(photos / "photo_2.png"), "image_id": 0})
    )
    scores = [box["score"] for box in answer["boxes"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == len(found)
    assert scores == pytest.approx(found.scores.tolist(), abs=1e-4)
    best = np.array(answer["boxes"][0]["box"]) * (80, 60, 80, 60)
    assert best == pytest.approx(found.pred_boxes.tensor[0].numpy(), abs=0.01)
    for box in answer["boxes"]:
        weights = [point[2] for point in box["attention"]["points"]]
        assert sum(weights) == pytest.approx(1, abs=1e-2)
        assert {point[3] for point in box["attention"]["points"]} == {0, 1}
    assert answer["shapes"] == [(12, 16), (6, 8)]  # 96 x 128 at strides 8 and 16
    nearest = answer["neighbours"][0]
    assert nearest == {
        "index": 2,
        "name": "photo_2.png",
        "similarity": pytest.approx(1, abs=1e-3),
        "same": True,
    }
    assert [one["same"] for one in answer["neighbours"]] == [True, False, False, False, False]
    assert len(answer["neighbours"]) == 5
    assert str(photos) not in str(answer)


def test_an_image_of_the_gallery_is_not_its_own_neighbour(viewer, photos):
    answer = viewer.look_at_own(2)
    assert [one["index"] for one in answer["neighbours"]] != [] and len(answer["boxes"]) > 0
    assert 2 not in [one["index"] for one in answer["neighbours"]]
    for index in (-1, 5):
        with pytest.raises(Refused, match="no such image"):
            viewer.look_at_own(index)
        with pytest.raises(Refused, match="no such image"):
            viewer.thumbnail(index)
    assert viewer.thumbnail(2).startswith(b"\xff\xd8")


def test_a_photo_that_has_gone(viewer, photos, monkeypatch):
    monkeypatch.setattr(viewer.gallery, "paths", [photos / "gone.png"] * 5)
    with pytest.raises(Refused, match="no longer there"):
        viewer.look_at_own(1)


def test_dense_attention_is_a_map(run_of, photos):
    viewer = viewer_of(run_of("detr"), photos)
    answer = viewer.look((photos / "photo_0.png").read_bytes())
    attention = answer["boxes"][0]["attention"]
    values = np.frombuffer(base64.b64decode(attention["heat"]), np.uint8)
    assert values.max() == 255 and len(values) == attention["rows"] * attention["columns"]
    assert [attention["rows"], attention["columns"]] == [6, 8]  # stride 16 of 96 x 128


def test_two_stage_detectors_have_boxes_alone(run_of, photos):
    viewer = viewer_of(run_of("rcnn"), photos)
    about, answer = viewer.about(), viewer.look((photos / "photo_0.png").read_bytes())
    assert about["boxes"] and not about["attention"] and not about["pretrained"]
    assert all("attention" not in box for box in answer["boxes"]) and answer["neighbours"]


def test_pretrained_detectors_rank(run_of, photos):
    viewer = viewer_of(run_of("up_detr"), photos)
    about, answer = viewer.about(), viewer.look((photos / "photo_0.png").read_bytes())
    assert about["pretrained"] and about["attention"]
    assert [one["name"] for one in about["classes"]] == ["object"]
    assert answer["boxes"] and {box["label"] for box in answer["boxes"]} == {0}


def test_backbones_have_neighbours_alone(run_of, photos):
    viewer = viewer_of(run_of("moco"), photos)
    about, answer = viewer.about(), viewer.look((photos / "photo_3.png").read_bytes())
    assert not about["boxes"] and about["gallery"] == 5
    assert answer["boxes"] == [] and answer["neighbours"][0]["index"] == 3


def test_many_at_once_get_the_answers_that_each_would_get_alone(viewer, photos):
    files = [path.read_bytes() for path in sorted(photos.iterdir())]
    alone = [viewer.look(data) for data in files]
    crowd, together = Viewer(viewer.looker, viewer.gallery, waiting=10), {}

    def ask(number):
        together[number] = crowd.look(files[number % 5])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(10)] == alone + alone


def test_a_crowd_is_asked_to_come_again(viewer, photos, monkeypatch):
    data = (photos / "photo_0.png").read_bytes()
    small = Viewer(viewer.looker, None, waiting=2, patience=0.2)
    begun, go = threading.Event(), threading.Event()

    def slow(upload, index):
        begun.set()
        go.wait(10)
        return {}

    monkeypatch.setattr(small, "_answer", slow)
    first = threading.Thread(target=small.look, args=(data,))
    first.start()
    begun.wait(10)
    begin = time.monotonic()
    with pytest.raises(Refused, match="try again"):  # waits its time
        small.look(data)
    assert 0.15 < time.monotonic() - begin < 5
    with pytest.raises(Refused, match="no image"):  # and what is refused anyway does not wait
        small.look(b"nothing")
    go.set()
    first.join()
    assert small.look(data) == {}


def test_looking_changes_nothing(viewer, photos):
    model = viewer.looker.shown.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    viewer.look((photos / "photo_1.png").read_bytes())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_limits_are_those_of_the_command(run_of, photos):
    viewer = viewer_of(run_of("moco"), photos, limits=Limits(megabytes=1e-4))
    with pytest.raises(Refused, match="0.0001 MB are taken"):
        viewer.look((photos / "photo_0.png").read_bytes())
