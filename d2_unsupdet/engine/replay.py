"""`python -m d2_unsupdet.engine.replay CAPTURE`: run a step that was not finite once more.

The captured weights, seed and image positions give the same step where one process took it. Of a
run on several, it is the captured rank's share alone, without the others' keys and statistics.
"""

import argparse
import math
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from d2_unsupdet.checkpoint.files import check_exists
from d2_unsupdet.cli import run_tool
from d2_unsupdet.data.plan import Position
from d2_unsupdet.engine.build import build_model
from d2_unsupdet.engine.class_images import count_class_images
from d2_unsupdet.engine.known_targets import check_known
from d2_unsupdet.engine.model_state import load_extra_state
from d2_unsupdet.engine.schedule import to_iterations
from d2_unsupdet.engine.trainer import AMP_DTYPES
from d2_unsupdet.seeding import seed_everything


def replay(path: Path, *, allow_unsafe: bool = False) -> dict[str, float]:
    """The losses of the captured step by name, and the norm of each gradient that is not finite.

    Args:
        path: the capture.
        allow_unsafe: let the config in it call anything.
    """
    check_exists(path)
    capture = torch.load(path, map_location="cpu", weights_only=True)
    if not allow_unsafe:
        check_known(capture["config"], f"Capture '{path}'")
    cfg = OmegaConf.create(capture["config"], flags={"allow_objects": True})
    model = build_model(cfg)
    model.load_state_dict(capture["model"])
    load_extra_state(model, capture["extra"])
    model.train()
    model.auto_commit = False  # type: ignore[assignment]  # teachers and queues stand still within a step
    loader = instantiate(cfg.dataloader.train)
    count_class_images(model, loader.dataset, cfg.dataloader.train.dataset.names)
    if hasattr(model, "progress"):
        plan = loader.plan
        length = to_iterations(cfg.train.max_iter, size=plan.size, batch=plan.batch)
        model.progress = capture["step"] / length  # type: ignore[assignment]
    batch = [loader.dataset[Position(*place)] for place in capture["positions"]]
    size = len(batch) // cfg.train.accumulate
    device = next(model.parameters()).device
    amp = cfg.train.amp
    losses: dict[str, float] = {}
    for micro in range(cfg.train.accumulate):
        seed_everything(capture["seed"], "step", capture["step"], micro, capture["rank"])
        with (
            EventStorage(capture["step"]),
            torch.autocast(device.type, AMP_DTYPES[amp.dtype], enabled=amp.enabled),
        ):
            part = model(batch[micro * size : (micro + 1) * size])
        (sum(part.values()) / cfg.train.accumulate).backward()
        for name, value in part.items():
            losses[name] = losses.get(name, 0.0) + float(value) / cfg.train.accumulate
    norms = {n: float(p.grad.norm()) for n, p in model.named_parameters() if p.grad is not None}
    losses |= {f"gradient of {n}": v for n, v in norms.items() if not math.isfinite(v)}
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("capture", type=Path, help="capture_step*.pth of a run that stopped")
    parser.add_argument("--allow-unsafe", action="store_true", help="run code that the file names")
    args = parser.parse_args()
    for name, value in replay(args.capture, allow_unsafe=args.allow_unsafe).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    run_tool(main)
