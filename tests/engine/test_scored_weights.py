"""`--eval-only` scores the run's own newest checkpoint, unless the command line names another."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.engine.scored_weights import (
    keep_results_apart,
    load_file,
    load_own,
    names_weights,
    results_folder,
    scores_own,
)
from d2_unsupdet.errors import UserError
from tests.detectors.tiny import tiny_detr
from tests.pretext.tiny_boxes import tiny_pretext


@pytest.fixture
def cfg(tmp_path):
    initial = tmp_path / "pretrained.pth"
    torch.save(nn.Linear(2, 3).state_dict(), initial)
    output = tmp_path / "run"
    return OmegaConf.create(
        {
            "train": {
                "output_dir": str(output),
                "init_checkpoint": str(initial),
                "init": {"classes": "keep"},
            },
            "dataloader": {"evaluator": {"output_dir": "${train.output_dir}/evaluation"}},
        }
    )


def save(cfg, model, *, ema=None):
    state = {"model": model.state_dict()} | ({"ema": {"average": ema}} if ema else {})
    RunCheckpointer(cfg.train.output_dir).save(state, 9, final=True)


def test_the_run_comes_first_and_an_override_before_it(cfg, tmp_path):
    assert not scores_own(cfg, resume=False, chosen=False)  # the folder holds no run yet
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model_best.pth").touch()
    assert not scores_own(cfg, resume=False, chosen=False)
    save(cfg, nn.Linear(2, 3))
    assert scores_own(cfg, resume=False, chosen=False)
    assert not scores_own(cfg, resume=False, chosen=True)
    assert scores_own(cfg, resume=True, chosen=True)
    cfg.train.init_checkpoint = ""
    assert scores_own(cfg, resume=False, chosen=True)


def test_a_run_that_an_error_ended_says_so_and_not_what_it_started_from(cfg, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/stopped.json").write_text('{"reason": "1 of 23 images is bad"}')
    said = (
        r"run' was stopped before its first checkpoint: 1 of 23 images is bad\..*init_checkpoint="
    )
    with pytest.raises(UserError, match=said):
        scores_own(cfg, resume=False, chosen=False)
    assert not scores_own(cfg, resume=False, chosen=True)
    with pytest.raises(UserError, match=said):
        load_own(cfg, nn.Linear(2, 3))  # with --resume, or a run that started from nothing
    save(cfg, nn.Linear(2, 3))
    assert scores_own(cfg, resume=False, chosen=False)


@pytest.mark.parametrize(
    "overrides, chosen",
    [
        ([], False),
        (["train.max_iter=3", "train.init.classes=drop"], False),
        (["train.init_checkpoint=a.pth"], True),
        (["MODEL.WEIGHTS", "a.pth"], True),
        (["MODEL.WEIGHTS=a.pth"], True),
    ],
)
def test_whether_the_command_line_names_weights(overrides, chosen):
    assert names_weights(overrides) == chosen


def test_the_log_names_the_file_that_is_scored(cfg, caplog):
    caplog.set_level("INFO")
    trained, average, model = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(2, 3)
    save(cfg, trained)
    load_own(cfg, model)
    assert torch.equal(model.weight, trained.weight)
    assert f"weights after step 10, {cfg.train.output_dir}/model_final.pth" in caplog.text
    assert "come before train.init_checkpoint=" in caplog.text
    save(cfg, trained, ema=average.state_dict())
    load_own(cfg, model)
    assert torch.equal(model.weight, average.weight)
    with pytest.raises(UserError, match="is not of the model of this config"):
        load_own(cfg, nn.Linear(2, 4))


def test_half_loaded_weights_are_not_scored(cfg):
    load_file(cfg, nn.Linear(2, 3), allow_unsafe=False)
    bigger = nn.Linear(2, 3)
    bigger.head = nn.Linear(3, 1)
    with pytest.raises(UserError, match=r"lacks 2 tensors of the model \(head.weight, head.bias\)"):
        load_file(cfg, bigger, allow_unsafe=False)


def test_dropped_heads_leave_nothing_to_evaluate(cfg):
    model = nn.Module()
    model.body = nn.Linear(40, 40)
    model.heads = nn.Module()
    model.heads.classes = nn.ModuleList([nn.Linear(2, 3)])
    torch.save(model.state_dict(), cfg.train.init_checkpoint)
    cfg.train.init.classes = "drop"
    with pytest.raises(UserError, match="nothing to evaluate: train.init.classes=drop"):
        load_file(cfg, model, allow_unsafe=False)


@pytest.mark.parametrize("prefix", ["", "detector."])
def test_an_export_is_called_so(cfg, tmp_path, prefix):
    model = tiny_detr("detr")
    state = {n: t for n, t in model.state_dict().items() if not n.startswith("heads.classes.")}
    torch.save(state, cfg.train.init_checkpoint)
    if prefix:
        model = tiny_pretext("detreg", "detr", freeze_at=5)
    said = "is an export.*give the model_final.pth beside it"
    with pytest.raises(UserError, match=rf"only: '[^']*' {said}"):
        load_file(cfg, model, allow_unsafe=False)
    output = tmp_path / "run"
    output.mkdir()
    (output / "config.yaml").touch()  # killed before its first checkpoint
    with pytest.raises(UserError, match=rf"The run '{output}' holds no checkpoint yet\. .*{said}"):
        load_file(cfg, model, allow_unsafe=False)
    save(cfg, nn.Linear(2, 3))
    with pytest.raises(UserError, match=rf"only: '[^']*' {said}"):
        load_file(cfg, model, allow_unsafe=False)


def test_another_pretexts_detector_is_scored(cfg):
    """DETReg's and JoinDet's answers do not need the heads that taught the detector."""
    model, other = (tiny_pretext(name, "detr", freeze_at=5) for name in ("detreg", "siamese_detr"))
    with torch.no_grad():
        other.detector.heads.classes[0].bias.fill_(7)
    torch.save(other.state_dict(), cfg.train.init_checkpoint)
    load_file(cfg, model, allow_unsafe=False)
    assert (model.detector.heads.classes[0].bias == 7).all()


def test_other_weights_do_not_overwrite_the_runs_detections(cfg, tmp_path):
    keep_results_apart(cfg)
    assert results_folder(cfg) == f"{tmp_path}/run/evaluation"  # nothing there to keep
    save(cfg, nn.Linear(2, 3))
    keep_results_apart(cfg)
    assert results_folder(cfg).endswith(f"/run/evaluation_{tmp_path.name}_pretrained")
