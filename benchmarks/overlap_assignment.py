#!/usr/bin/env python
"""DETA's experiment in small: one-to-one against overlap assignment, AP on the way.

python benchmarks/overlap_assignment.py --seeds 0 1        # four epochs
python benchmarks/overlap_assignment.py --quick            # two steps of each: only that it runs

The same network (configs/finetune/toy/deta.py at 96 pixels, random weights, 2,000 embedded scenes,
rate with one drop); what differs is the assignment of each stage, and for "Hungarian" what belongs
to it: plain top proposals and no suppression at the end.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = "d2_unsupdet.detectors"
ONE_TO_ONE = f"_target_={PARTS}.HungarianAssigner"
PLAIN = [
    f"model.proposals.select._target_={PARTS}.TopTokens",
    f"model.postprocess._target_={PARTS}.TopPairs",
]
ARMS = {
    "overlap": [],
    "overlap in the encoder": [f"model.criterion.assigner.{ONE_TO_ONE}", PLAIN[1]],
    "Hungarian": [
        f"model.criterion.assigner.{ONE_TO_ONE}",
        f"model.criterion.encoder_assigner.{ONE_TO_ONE}",
        *PLAIN,
    ],
}
MAPPER = "dataloader.train.mapper.augmentations"
COMMON = [
    f"{MAPPER}.1.prob=0",
    f"{MAPPER}.2.short_edge_length=[96]",
    f"{MAPPER}.2.max_size=96",
    "dataloader.test.mapper.augmentations.0.short_edge_length=96",
    "dataloader.test.mapper.augmentations.0.max_size=96",
    "train.writers=[]",
    "train.log_period=25",
]


def run(arm: str, seed: int, epochs: int, folder: Path, quick: bool) -> dict[int, float]:
    """AP after each evaluated step; a run that is there already is read."""
    output = folder / f"{arm.replace(' ', '_')}_seed{seed}"
    length = ["train.max_iter=2", "train.eval_period=1"] if quick else []
    if not (output / "summary.json").exists():
        command = [
            sys.executable,
            str(ROOT / "train_net.py"),
            "--config-file",
            str(ROOT / "configs/finetune/toy/deta.py"),
            "--resume",
            *COMMON,
            *ARMS[arm],
            f"train.max_iter={epochs} epochs",
            "train.eval_period=1 epochs",
            *length,
            f"train.seed={seed}",
            f"train.output_dir={output}",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{arm}, seed {seed} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {line["iteration"] + 1: line["bbox/AP"] for line in lines if "bbox/AP" in line}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("output/overlap_assignment"))
    parser.add_argument("--quick", action="store_true", help="two steps")
    options = parser.parse_args()
    folder = options.out / "quick" if options.quick else options.out
    curves = {
        arm: [run(arm, seed, options.epochs, folder, options.quick) for seed in options.seeds]
        for arm in ARMS
    }
    steps = sorted(min((c[0] for c in curves.values()), key=len))
    print("| assignment | " + " | ".join(f"step {step}" for step in steps) + " |")
    print("|---|" + "---|" * len(steps))
    for arm, runs in curves.items():
        cells = []
        for step in steps:
            scores = [one[step] for one in runs]
            spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
            cells.append(f"{statistics.mean(scores):.1f}{spread}")
        print(f"| {arm} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
