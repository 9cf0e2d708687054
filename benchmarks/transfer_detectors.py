#!/usr/bin/env python
"""What pretraining a whole detector gives: every pretext at one budget, then few labels, seeds.

    python benchmarks/transfer_detectors.py                # embedded images, real ones where found
    python benchmarks/transfer_detectors.py --methods random detreg --targets toy --seeds 0
    python benchmarks/transfer_detectors.py --lr detreg=5e-4 --finetune-lr random=2e-3
    python benchmarks/transfer_detectors.py --table --curves curves.png   # what is finished
    python benchmarks/transfer_detectors.py --quick        # two steps: that it runs

The detector is the quickstart's small two-stage Deformable DETR, from random weights, at 96 pixels.
It is pretrained on the embedded images without labels for the embedded set, and on `grocery`
(photographs of shelves) for blood cells (`bccd`) and `cards`. Four scores a method and target: AP
after finetuning on 50 labels and the steps to what scratch reaches; AR with only the heads trained;
AP and AR of the pretrained boxes as they are, without classes.

Every run is a `train_net.py` of its own. A finished one is written to a ledger and never repeated,
an unfinished one goes on from its last checkpoint, so the benchmark may be stopped at any time.
Methods share the number of images and steps, the detector, the boxes (UP-DETR draws its own at
random), the labels and the finetuning; a seed draws weights, order and labels.
"""

import sys
from pathlib import Path

# The package of this clone, as its runs have it, wherever another one is installed.
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from transfer.detector_command import main  # noqa: E402  # after the path

from d2_unsupdet.cli import run_tool  # noqa: E402  # after the path

if __name__ == "__main__":
    run_tool(lambda: main(__doc__))
