"""What stands where: a run, weights in it or elsewhere, an export; and which query answered."""

import json
import shutil

import pytest
import torch

from d2_unsupdet.analysis.attention import trace_attention
from d2_unsupdet.analysis.look import open_looker
from d2_unsupdet.errors import UserError
from d2_unsupdet.sharing.publish import publish
from tests.demo.conftest import photos, run_of  # noqa: F401 (fixtures)
from tests.sharing.fake_hub import asked_by_the_client


def test_each_box_has_the_query_that_answered(run_of, photos):  # noqa: F811 (a fixture)
    for name in ("deformable", "detr"):
        looker = open_looker(run_of(name))
        path = photos / "photo_0.png"
        look = looker.look(path)
        sample = looker.shown.mapper({"file_name": str(path), "image_id": 0})
        trace = trace_attention(looker.shown.detector, [sample])
        assert len(look.found) == len(look.attention) > 5
        for one in look.found:
            query = trace.query(one.query)
            assert trace.scores[0, one.query, one.label].item() == pytest.approx(one.score)
            box = query.box_xyxy.clamp(0, 1)
            torch.testing.assert_close(torch.tensor(one.box_xyxy), box, atol=1e-4, rtol=0)
        assert len(looker.look(path, most=3).found) == 3


def test_weights_in_a_run_are_of_its_config(run_of):  # noqa: F811 (a fixture)
    run = run_of("deformable")
    by_file, by_run = open_looker(run / "model_final.pth"), open_looker(run)
    ours, theirs = (one.shown.model.state_dict() for one in (by_file, by_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert by_file.names[:2] == ["circle", "square"] and by_file.attends


def test_weights_elsewhere_are_a_backbone(run_of, tmp_path):  # noqa: F811 (a fixture)
    alone = shutil.copy(run_of("rcnn") / "model_final.pth", tmp_path / "rcnn.pth")
    looker = open_looker(alone)
    assert looker.shown is None and looker.label == "rcnn" and not looker.attends
    assert "res5" in looker.net.channels
    with pytest.raises(UserError, match="predicts no boxes"):
        looker.look("any.png")


def test_an_export_is_not_of_the_config_beside_it(run_of, tmp_path):  # noqa: F811 (a fixture)
    run = run_of("moco")
    net = open_looker(run).net
    state = {f"backbone.{name}": value for name, value in net.resnet.state_dict().items()}
    torch.save({"model": state}, run / "export.pth")
    assert open_looker(run / "export.pth").shown is None
    (run / "export.pth").unlink()


def test_what_is_missing_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no run or file"):
        open_looker(tmp_path / "nothing")


def test_a_repository_of_the_hub(run_of, tmp_path, monkeypatch):  # noqa: F811 (a fixture)
    run = shutil.copytree(run_of("deformable"), tmp_path / "run")
    summary = {"kind": "finetune", "iterations": 1, "images": 1, "method": "a detector"}
    (run / "summary.json").write_text(json.dumps(summary))
    publish(run, tmp_path / "published")
    shutil.copytree(tmp_path / "published", tmp_path / "bare")
    (tmp_path / "bare/manifest.json").unlink()
    with asked_by_the_client(tmp_path / "cache", monkeypatch) as hub:
        hub.add("someone/shapes", tmp_path / "published")
        hub.add("someone/bare", tmp_path / "bare")
        looker = open_looker("hub:someone/shapes")
        bare = open_looker("hub:someone/bare")
    assert (looker.label, looker.names[0], looker.attends) == ("shapes", "circle", True)
    ours, theirs = looker.shown.model.state_dict(), bare.shown.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UserError, match="names no repository"):
        open_looker("hub:shapes")
