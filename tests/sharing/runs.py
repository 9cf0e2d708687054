"""Finished runs of a detector and of a pretext, small enough to make in a test."""

import json
from pathlib import Path

import torch
from omegaconf import DictConfig

from d2_unsupdet.checkpoint.checkpointer import RunCheckpointer
from d2_unsupdet.checkpoint.export import export_weights
from d2_unsupdet.checkpoint.files import sha256
from d2_unsupdet.engine.build import build_model
from d2_unsupdet.engine.checks import prepare
from d2_unsupdet.engine.config import dump_config, load_config

ROOT = Path(__file__).resolve().parents[2]
SETS = [
    "dataloader.train.dataset.names=toy_train:images=4:size=64",
    "dataloader.test.dataset.names=toy_val:images=2:size=64",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.device=cpu",
    "train.max_iter=2",
]
SMALL = ["model.encoder.num_layers=1", "model.decoder.num_layers=1"]
SMALL_PRETEXT = [f"model.detector.{one.removeprefix('model.')}" for one in SMALL]


def finetuned(folder: Path, *, name: str = "deformable_detr", **summary) -> Path:
    """What a finetuning run leaves that matters here, without a step of training."""
    cfg = _config(f"configs/finetune/toy/{name}.py", folder, [*SETS, *SMALL])
    return _leave(cfg, folder, "finetune", **summary)


def pretrained(folder: Path, *, name: str = "deformable_detr", **summary) -> Path:
    """The same of UP-DETR."""
    unlabelled = "dataloader.train.dataset.names=toy_unlabeled:images=4:size=64"
    sets = [*SETS, unlabelled, "dataloader.test.dataset.names=null", *SMALL_PRETEXT]
    cfg = _config(f"configs/pretrain/up_detr/toy_{name}.py", folder, sets)
    return _leave(cfg, folder, "pretrain", **summary)


def _config(file: str, folder: Path, sets: list[str]) -> DictConfig:
    return prepare(load_config(str(ROOT / file), [*sets, f"train.output_dir={folder}"]))


def _leave(cfg: DictConfig, folder: Path, kind: str, **summary) -> Path:
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    checkpointer = RunCheckpointer(folder)
    checkpointer.save({"model": model.state_dict()}, 1, final=True)
    (folder / "config.yaml").write_text(dump_config(cfg))
    exports = []
    if kind == "pretrain":
        exports = export_weights(model.export(), folder / "export", meta={"method": "UPDETR"})
    scores = {"AP": 12.5, "AP50": 30.0, "APl": float("nan"), "AP-star": 1.0}
    told = {
        "kind": kind,
        "method": type(model).__name__,
        "data": str(cfg.dataloader.train.dataset.names),
        "test": "toy_val:images=2:size=64",
        "iterations": 2,
        "images": 4,
        "seconds": 1.0,
        "result": {"bbox": scores} if kind == "finetune" else {},
        "init_checkpoint": None,
        "init_coverage": None,
        "exports": [{"file": str(path), "sha256": sha256(path)} for path in exports],
        "seed": 3,
    }
    (folder / "summary.json").write_text(json.dumps(told | summary))
    packages = {"torch": "2.14.1", "detectron2": "0.6", "numpy": "2.4.6"}
    (folder / "environment.json").write_text(json.dumps({"packages": packages}))
    line = {"iteration": 0, "total_loss": 3.0}
    if kind == "finetune":
        line |= {"bbox/AP": 10.0, "bbox/AP50": 25.0}
    (folder / "metrics.json").write_text(json.dumps(line) + "\n")
    return folder


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Of the run's last checkpoint."""
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]
