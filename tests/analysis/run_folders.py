"""Makes run folders like those that training leaves, for the report's tests."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def make_run(
    folder: Path,
    *,
    kind: str = "finetune",
    ap: float | None = 30.0,
    steps: int = 10,
    seed: int = 0,
    config: str = "",
    **summary: Any,
) -> Path:
    """`steps` log lines, the scores after every second one; `ap` is the last of them.

    `config` is YAML beside its section `train`; settings of different YAML are different ones.
    """
    folder.mkdir(parents=True)
    lines = []
    for i in range(steps):
        entry = {"iteration": 20 * i + 19, "total_loss": 4 * math.exp(-i / 5), "lr": 0.01}
        if ap is not None and i % 2:
            share = (i + 1) / steps
            entry |= {"bbox/AP": ap * share, "bbox/AP50": 1.5 * ap * share, "bbox/AP-cat": 1.0}
        lines.append(json.dumps(entry))
    (folder / "metrics.json").write_text("\n".join(lines) + "\n")
    train = f"output_dir: {json.dumps(str(folder))}\n  max_iter: 200\n  seed: {seed}\n"
    weights = json.dumps(summary.get("init_checkpoint"))
    config = f"train:\n  {train}  init_checkpoint: {weights}\n{config}"
    (folder / "config.yaml").write_text(config)
    (folder / "environment.json").write_text(json.dumps({"torch": "2.14.1"}))
    (folder / "command.txt").write_text("python train_net.py --config-file a.py\n")
    told = {"kind": kind, "method": "MoCo v2", "data": "toy_train", "seconds": 61.0} | summary
    (folder / "summary.json").write_text(json.dumps(told))
    return folder


def add_picture(run: Path, name: str = "views_000.png", **entry: Any) -> None:
    """A small picture and, with `entry`, its line in the index."""
    folder = run / "pictures"
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / name)
    index = folder / "index.json"
    entries = json.loads(index.read_text()) if index.exists() else []
    index.write_text(json.dumps([*entries, {"file": name, **entry}]))
