"""A name that does not exist points to the one that was meant, or to none."""

from pathlib import Path

import pytest

from d2_unsupdet.engine.config import load_config
from d2_unsupdet.errors import UserError

TOY = Path(__file__).parents[2] / "configs/finetune/toy"


@pytest.mark.parametrize(
    "name, override, sentence",
    [
        (
            "deta",
            "model.query_source.num_queries=10",
            r"has no 'num_queries'\. .*: set model\.proposals\.num_proposals",
        ),
        ("detr", "model.query_source.num_querys=10", r"Did you mean 'num_queries'\?"),
        ("detr", "model.backbone.stages.dilated=True", "'dilated' needs a full-size recipe"),
        ("detr", "model.backbone.stages.depth=50", "'depth' needs a full-size recipe"),
        (
            "detr",
            "model.criterion.assigner._target_=d2_unsupdet.detectors.HungarianAsigner",
            r"Did you mean 'd2_unsupdet\.detectors\.HungarianAssigner'\?",
        ),
        (
            "detr",
            "model.criterion.assigner._target_=d2_unsupdet.detector.HungarianAssigner",
            r"Did you mean 'd2_unsupdet\.detectors'\?",
        ),
    ],
)
def test_a_hint_fits_the_mistake(name, override, sentence):
    with pytest.raises(UserError, match=sentence):
        load_config(str(TOY / f"{name}.py"), [override])


def test_a_script_is_no_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nope_tool.py").write_text("print('model = 1')\n")
    (tmp_path / "nope_net.py").write_text("train = 1\nif __name__ == '__main__':\n    pass\n")
    with pytest.raises(UserError) as raised:
        load_config("nope.py")
    assert "mean" not in str(raised.value)
    (tmp_path / "nope2.py").write_text("from common import model\nmodel.depth = 3\n")
    with pytest.raises(UserError, match=r"Did you mean 'nope2.py'\?"):
        load_config("nope.py")


def test_a_run_that_does_not_exist(tmp_path):
    with pytest.raises(UserError) as raised:
        load_config(str(tmp_path / "output/moco/config.yaml"))
    assert str(raised.value).endswith(f"There is no run in '{tmp_path}/output/moco'.")
    (tmp_path / "mocov2").mkdir()
    (tmp_path / "mocov2/config.yaml").touch()
    with pytest.raises(UserError, match=r"Did you mean '.*/mocov2'\?"):
        load_config(str(tmp_path / "mocov3/config.yaml"))


@pytest.mark.parametrize(
    "target, said",
    [
        ("d2_unsupdet.priors.NmsUpdat", "d2_unsupdet.priors has no 'NmsUpdat'"),
        ("d2_unsupdet.priors.box_smooth.Nms", "d2_unsupdet.priors.box_smooth has no 'Nms'"),
        ("d2_unsupdet.prior.NmsUpdate", "d2_unsupdet has no 'prior'"),
        ("nowhere.Part", "there is no 'nowhere'"),
        ("part_that_breaks.Part", "part_that_breaks fails with ValueError: two lines"),
        ("part_that_lacks.Part", "part_that_lacks needs the module 'absent', which is not"),
    ],
)
def test_what_cannot_be_imported_is_one_line(target, said, tmp_path, monkeypatch):
    (tmp_path / "part_that_breaks.py").write_text("raise ValueError('two\\nlines')")
    (tmp_path / "part_that_lacks.py").write_text("import absent")
    monkeypatch.syspath_prepend(tmp_path)
    override = f"model.criterion.assigner._target_={target}"
    with pytest.raises(UserError) as raised:
        load_config(str(TOY / "detr.py"), [override])
    assert f"cannot be imported: {said}" in str(raised.value)
    assert "\n" not in str(raised.value)
