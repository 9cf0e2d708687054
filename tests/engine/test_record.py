"""What a run leaves when it is ended early, and that it is gone once the run goes on."""

import json
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from d2_unsupdet.engine import record
from d2_unsupdet.errors import UserError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("12 of 40 images could not be used."), "12 of 40 images could not be used."),
        (RuntimeError("out of memory\nand much more"), "RuntimeError: out of memory"),
        (ValueError(), "ValueError: no message"),
    ],
)
def test_the_reason_is_left_and_the_error_goes_on(tmp_path, error, told):
    with pytest.raises(type(error)), record.reason_left(tmp_path, SimpleNamespace(iter=7)):
        raise error
    left = json.loads((tmp_path / "stopped.json").read_text())
    assert left == {"reason": told, "iteration": 7}


def test_a_run_that_goes_well_leaves_none(tmp_path):
    with record.reason_left(tmp_path, SimpleNamespace(iter=7)):
        pass
    assert not (tmp_path / "stopped.json").exists()


def test_a_run_that_goes_on_takes_the_reason_away(tmp_path, monkeypatch):
    (tmp_path / "stopped.json").write_text("{}")
    monkeypatch.setattr(record, "report_bad_boxes", lambda *_: None)
    cfg = OmegaConf.create({"dataloader": {"train": {"dataset": {"names": "a"}}}})
    records = SimpleNamespace(records=[])
    trainer = SimpleNamespace(loader=SimpleNamespace(dataset=records))
    record.leave(cfg, tmp_path, trainer)
    assert not (tmp_path / "stopped.json").exists() and (tmp_path / "config.yaml").exists()
