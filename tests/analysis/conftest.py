"""Three small runs that reports are made of."""

import pytest

from tests.analysis.run_folders import add_picture, make_run


@pytest.fixture
def runs(tmp_path):
    model = "model: {_target_: a.MoCoV2}"
    pretrain = make_run(
        tmp_path / "moco", kind="pretrain", ap=None, data="toy_unlabeled", config=model
    )
    weights = str(pretrain / "export.safetensors")
    make_run(tmp_path / "ours", ap=30.0, init_checkpoint=weights, init_coverage=0.987)
    make_run(tmp_path / "scratch", ap=24.0)
    add_picture(pretrain, caption="image 0 of the pairs", group="views")
    add_picture(tmp_path / "ours", "p.png", caption="image 7", group="predictions")
    return [tmp_path / name for name in ("moco", "ours", "scratch")]
