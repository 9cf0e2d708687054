#!/usr/bin/env python
"""What pretraining gives a detector: every method at one budget, then few labels, several seeds.

    python benchmarks/transfer_backbones.py --jobs 2     # embedded images, and bccd where it is
    python benchmarks/transfer_backbones.py --unlabeled folder:/path/to/images
    python benchmarks/transfer_backbones.py --methods random dupr --lr dupr=0.03 --seeds 0
    python benchmarks/transfer_backbones.py --scale resnet50    # with a GPU
    python benchmarks/transfer_backbones.py --table             # what is finished, as markdown
    python benchmarks/transfer_backbones.py --quick             # two steps: that it runs

Every run is a `train_net.py` of its own. A finished one is written to a ledger and never repeated,
an unfinished one goes on from its last checkpoint, so the benchmark may be stopped at any time.
Methods share the number of images and steps, the network, the labels and the finetuning; the seed
of a run draws its weights, its order of images and its labels.

Rates: `--scale resnet50` takes each method's recipe's rate times the batch over the recipe's batch.
The small scale takes the rates of the quickstart recipes, which are set by hand, not searched and
the same at any `--batch`. `--lr` replaces either; the table shows what was used.
"""

import sys
from pathlib import Path

# The package of this clone, as its runs have it, wherever another one is installed.
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from transfer.command import main  # noqa: E402

from d2_unsupdet.cli import run_tool  # noqa: E402

if __name__ == "__main__":
    run_tool(lambda: main(__doc__))
