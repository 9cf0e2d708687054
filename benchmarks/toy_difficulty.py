#!/usr/bin/env python
"""How hard is the embedded data set? The quickstart's detector from scratch on few and many images.

Wanted: AP50 under 35 with 50 images (labels are scarce, so pretraining has something to give) and
over 70 with 2,000 (the task can be learned).

    python benchmarks/toy_difficulty.py           # 50 and 2,000 images, 1,500 steps each
    python benchmarks/toy_difficulty.py --quick   # a few steps: that it runs

Started again, an unfinished run is resumed and a finished one only read.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def score(images: int, steps: int, output: Path) -> dict[str, float]:
    """COCO scores on toy_val of the detector trained on a subset of toy_train."""
    folder = output / f"{images}-images-{steps}-steps"
    summary = folder / "summary.json"
    if not summary.exists():
        overrides = [
            f"dataloader.train.dataset.subset={images}",
            f"train.max_iter={steps}",
            "train.eval_period=0",
            f"train.output_dir={folder}",
        ]
        config = ["--config-file", "configs/quickstart/finetune.py"]
        command = [sys.executable, "train_net.py", *config, "--resume", *overrides]
        subprocess.run(command, cwd=ROOT, check=True)
    return json.loads(summary.read_text())["result"]["bbox"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[50, 2000])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--quick", action="store_true", help="five steps")
    parser.add_argument("--output", type=Path, default=Path("output/toy_difficulty"))
    args = parser.parse_args()
    steps = 5 if args.quick else args.steps
    rows = {images: score(images, steps, args.output.resolve()) for images in args.images}
    print("images   AP   AP50")
    for images, result in rows.items():
        print(f"{images:6d} {result['AP']:5.1f} {result['AP50']:5.1f}")


if __name__ == "__main__":
    main()
