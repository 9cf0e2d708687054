#!/usr/bin/env python
"""Can each detector learn sixteen embedded images by heart? Steps, AP50 on them and time.

python benchmarks/overfit.py                        # all six, some minutes each on two cores
python benchmarks/overfit.py deta --steps 100
python benchmarks/overfit.py --quick                # two steps of each: only that it runs

A detector that cannot reach AP50 90 here has a fault in its losses, its matching or its boxes.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = {  # dense attention without a reference needs the most
    "detr": 1000,
    "conditional_detr": 600,
    "deformable_detr": 300,
    "dab_deformable_detr": 300,
    "dn_dab_deformable_detr": 300,
    "deta": 300,
}
DATA = "toy_train:images=16:size=96"
MAPPER = "dataloader.train.mapper.augmentations"
OVERRIDES = [
    f"dataloader.train.dataset.names={DATA}",
    f"dataloader.test.dataset.names={DATA}",
    f"{MAPPER}.0.prob=0",  # no flip
    f"{MAPPER}.1.prob=0",  # no crop
    f"{MAPPER}.2.short_edge_length=[96]",
    f"{MAPPER}.2.max_size=96",
    "dataloader.test.mapper.augmentations.0.short_edge_length=96",
    "dataloader.test.mapper.augmentations.0.max_size=96",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.eval_period=100",
    "train.log_period=50",
    "train.writers=[]",
]


def run(name: str, steps: int, extra: list[str]) -> tuple[float, float, int]:
    """Last AP50, seconds, and the step at which AP50 was first above 90 (0 for never)."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = subprocess.run(
            [
                sys.executable,
                str(ROOT / "train_net.py"),
                "--config-file",
                str(ROOT / f"configs/finetune/toy/{name}.py"),
                *OVERRIDES,
                f"train.max_iter={steps}",
                f"train.output_dir={folder}",
                *extra,
            ],
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        if result.returncode:
            sys.exit(f"{name} failed:\n{result.stdout[-1500:]}{result.stderr[-1500:]}")
        lines = [json.loads(s) for s in (Path(folder) / "metrics.json").read_text().splitlines()]
    scores = {}
    for line in lines:
        for key, value in line.items():
            if re.fullmatch(r".*bbox/AP50", key):
                scores[line["iteration"] + 1] = value
    reached = [step for step, score in sorted(scores.items()) if score > 90]
    return scores[max(scores)], seconds, reached[0] if reached else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(STEPS), help="default: all")
    parser.add_argument("--steps", type=int, help="of every detector")
    parser.add_argument("--quick", action="store_true", help="two steps")
    parser.add_argument("--set", action="append", default=[], help="a further override")
    options = parser.parse_args()
    unknown = set(options.names) - set(STEPS)
    if unknown:
        parser.error(f"unknown detector {min(unknown)}: choose from {', '.join(STEPS)}")
    print(f"{'detector':26}{'steps':>7}{'AP50':>8}{'AP50 > 90 at':>14}{'seconds':>9}")
    failed = []
    for name in options.names:
        steps = 2 if options.quick else options.steps or STEPS[name]
        score, seconds, reached = run(name, steps, options.set)
        print(f"{name:26}{steps:7}{score:8.1f}{reached or '-':>14}{seconds:9.0f}", flush=True)
        if score <= 90:
            failed.append(name)
    if failed and not options.quick and options.steps is None:
        sys.exit(f"AP50 90 was not reached by {', '.join(failed)}.")


if __name__ == "__main__":
    main()
