"""The Python of the DETR page runs, and the table of YAML keys is complete."""

import re
from pathlib import Path

import torch
from detectron2.config import instantiate

from d2_unsupdet.detectors.yaml_settings import ARCHITECTURES, COMMON
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.defaults import TRAIN

ROOT = Path(__file__).resolve().parents[1]


def test_the_python_of_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/methods/detr.md").read_text(), flags=re.DOTALL
    )
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    cfg = load_config("configs/finetune/toy/detr.py")
    cfg.model.heads.num_classes = 8
    model = instantiate(cfg.model)
    torch.save(model.state_dict(), "detr.pth")
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/methods/detr.md", "exec"), names)
    assert len(blocks) == 3
    assert names["instances"].has("pred_boxes") and len(names["batch"]) == 16
    assert names["allowed"].shape == (50, 10) and names["losses"]["loss_ce"].requires_grad


def rows(section: str) -> set[str]:
    text = (ROOT / "docs/running.md").read_text().split(section)[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_yaml_key_has_a_row():
    keys = {key for table in ARCHITECTURES.values() for key in table} | set(COMMON)
    assert rows("| `MODEL.DETR.` |") == keys


def test_every_key_of_the_start_has_a_row():
    assert rows("| `train.init.` |") == set(TRAIN["init"])
