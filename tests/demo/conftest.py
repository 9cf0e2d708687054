"""Runs with random weights, small enough to answer in tens of milliseconds."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.engine.build import build_model
from d2_unsupdet.engine.config import dump_config, load_config
from d2_unsupdet.engine.run import prepare

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "demo"))  # as Python does for `python demo/serve.py`

TINY = "toy_val:images=6:size=64"
CONFIGS = {
    "deformable": "quickstart/finetune_detector.py",
    "detr": "finetune/toy/detr.py",
    "rcnn": "quickstart/finetune.py",
    "up_detr": "pretrain/up_detr/toy_deformable_detr.py",
    "moco": "quickstart/pretrain_moco.py",
}


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """The folder of a run, by a name of `CONFIGS`."""
    root, made = tmp_path_factory.mktemp("runs"), {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = _write(root / name, CONFIGS[name])
        return made[name]

    return get


def _write(run: Path, config: str) -> Path:
    sets = ["train.device=cpu", f"train.output_dir={run}", f"dataloader.train.dataset.names={TINY}"]
    cfg = load_config(str(ROOT / "configs" / config))
    if cfg.dataloader.get("test") is not None:
        sets.append(f"dataloader.test.dataset.names={TINY}")
    if cfg.dataloader.train.dataset.get("subset"):
        sets.append("dataloader.train.dataset.subset=null")
    cfg = prepare(load_config(str(ROOT / "configs" / config), sets))
    state = {"model": build_model(cfg).state_dict(), "iteration": 0}
    RunCheckpointer(run, keep_last=1).save(state, 0, final=True)
    (run / "config.yaml").write_text(dump_config(cfg))
    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Five coloured images of 60 x 80."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(5):
        coarse = rng.integers(20, 235, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((80, 60)).save(folder / f"photo_{number}.png")
    return folder
