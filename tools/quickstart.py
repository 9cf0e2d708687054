#!/usr/bin/env python
"""Images without labels -> pretrain -> finetune on 50 labels -> the same from scratch -> report.

    python tools/quickstart.py                        # a whole detector, on the embedded images
    python tools/quickstart.py --data /path/to/images # pretrain on a folder of your own
    python tools/quickstart.py --data images --labels coco:few.json@images --test voc:labelled@val
    python tools/quickstart.py --backbone             # MoCo v2 and a Faster R-CNN instead

Every step is a command that you could type; it is printed before it runs. What it shows at this
size is the route, and whatever it measures: docs/results.md has comparisons over several seeds.
"""

import argparse
import hashlib
import json
import math
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from d2_unsupdet.cli import Parser, run_tool
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.config import SECTIONS, load_config
from d2_unsupdet.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "quickstart"
# Measured best on the embedded set: contrast against the surroundings, suppression, few boxes.
BOXES = "selective-search:ranked=contrast,side=[0.06,0.75],most_aspect=3.5"


@dataclass(frozen=True)
class Route:
    """The configs of one quickstart.

    Args:
        pretrain: learns without labels.
        finetune: starts from what that exports.
        scratch: the same from random weights, at its own learning rate.
        boxes: whether the pretraining learns from boxes that are found first.
    """

    pretrain: str
    finetune: str
    scratch: str
    boxes: bool


DETECTOR = Route("pretrain_detreg.py", "finetune_detector.py", "scratch_detector.py", boxes=True)
BACKBONE = Route("pretrain_moco.py", "finetune.py", "finetune.py", boxes=False)


def run(*arguments: str) -> None:
    """Run a command of the project; its failure ends the quickstart with its own message."""
    print(f"\n$ python {shlex.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode
    if code:
        sys.exit(code)


def train(config: str, output: Path, *overrides: str) -> None:
    check_replaceable(output)
    if output.exists():
        shutil.rmtree(output)
    run(
        "train_net.py",
        "--config-file",
        str((CONFIGS / config).relative_to(ROOT)),
        f"train.output_dir={output}",
        *overrides,
    )


def check_replaceable(folder: Path) -> None:
    """Only what an earlier run left may be deleted; it is known by its saved config."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    saved = folder / "config.yaml"
    text = saved.read_text(errors="replace") if saved.is_file() else ""
    if not all(f"\n{section}:" in f"\n{text}" for section in SECTIONS):
        raise UserError(
            f"'{folder}' is not a run of this project (it has no config.yaml of one) and stays as "
            "it is; choose another --output, or delete it."
        )


def shortened(config: str, factor: float) -> list[str]:
    """The override for a run of `factor` times the recipe's steps."""
    if factor == 1:
        return []
    steps = load_config(str(CONFIGS / config)).train.max_iter
    return [f"train.max_iter={max(2, round(factor * steps))}"]


def find_boxes(source: str, output: Path) -> list[str]:
    """Boxes that nobody drew, found once; the override that names their store."""
    kind, colon, path = source.partition(":")
    name = f"{Path(path).name}-{hashlib.sha256(path.encode()).hexdigest()[:8]}" if colon else kind
    store = output / "boxes" / name
    tool = ["tools/extract_priors.py", "--dataset", source, "--out", str(store)]
    run(*tool, "--source", BOXES)
    return [f"dataloader.train.mapper.source.path={store}"]


def absolute(name: str) -> str:
    """The commands run in the repository: paths of a name are those of the current folder."""
    kind, _, rest = name.partition(":")
    first, at, second = rest.rpartition("@")
    if kind not in ("coco", "voc") or not at:
        return name
    parts = [first, second] if kind == "coco" else [first]
    found = [str(catalog.locate(part).resolve()) for part in parts]
    return f"{kind}:{found[0]}@{found[1] if kind == 'coco' else second}"


def own_labels(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Overrides for labels of one's own: of the pretraining, and of the finetuning."""
    if not (args.labels or args.test):
        return [], []
    if not (args.labels and args.test):
        raise UserError("--labels are trained on and --test is scored: give both, or neither.")
    labels, test = absolute(args.labels), absolute(args.test)
    found = [catalog.class_names(name) for name in (labels, test)]
    if found[0] != found[1]:
        raise UserError(
            f"--labels {args.labels} and --test {args.test} have different classes: "
            f"{catalog.classes_apart(*found)}; give data of the same classes."
        )
    scored = f"dataloader.test.dataset.names={test}"
    trained = [
        f"dataloader.train.dataset.names={labels}",
        "dataloader.train.dataset.subset=null",
    ]
    return [scored], [*trained, scored]


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder of images to pretrain on; default: toy scenes")
    parser.add_argument(
        "--labels", metavar="NAME", help="labelled images, coco:FILE@IMAGES or voc:FOLDER@LIST"
    )
    parser.add_argument("--test", metavar="NAME", help="of the same classes, to be scored")
    parser.add_argument("--backbone", action="store_true", help="pretrain a backbone alone")
    parser.add_argument("--output", type=Path, help="default: output/quickstart[-backbone]")
    parser.add_argument("--steps", type=float, default=1.0, help="factor on all run lengths")
    args = parser.parse_args()
    begin = time.monotonic()
    route = BACKBONE if args.backbone else DETECTOR
    usual = "output/quickstart-backbone" if args.backbone else "output/quickstart"
    output = (args.output or Path(usual)).resolve()
    if not 0 < args.steps < math.inf:
        raise UserError(f"--steps={args.steps} is not a positive number, such as 0.5.")
    source = "toy_unlabeled"
    if args.data:
        source = f"folder:{Path(args.data).resolve()}"
        catalog.check(source)

    on_test, on_labels = own_labels(args)
    if args.backbone:
        on_test = []  # nothing is scored before there is a detector

    pretrain, finetune, scratch = (output / n for n in ("pretrain", "finetune", "scratch"))
    for folder in (pretrain, finetune, scratch):
        check_replaceable(folder)
    boxes = find_boxes(source, output) if route.boxes else []
    names = f"dataloader.train.dataset.names={source}"
    weights = f"train.init_checkpoint={pretrain / 'export.safetensors'}"
    train(route.pretrain, pretrain, names, *boxes, *on_test, *shortened(route.pretrain, args.steps))
    train(route.finetune, finetune, weights, *on_labels, *shortened(route.finetune, args.steps))
    train(route.scratch, scratch, *on_labels, *shortened(route.scratch, args.steps))
    report = output / "report.html"
    run(
        "-m",
        "d2_unsupdet.analysis.report",
        *(str(path) for path in (finetune, scratch, pretrain)),
        "--baseline",
        "scratch",
        "--out",
        str(report),
    )
    usual = "the embedded validation images, 50 labelled images"
    print(f"\nAP and AP50 on {args.test or usual}, one seed:")
    for path in (finetune, scratch):
        result = json.loads((path / "summary.json").read_text())["result"]["bbox"]
        print(f"  {path.name:9s} AP {result['AP']:5.1f}   AP50 {result['AP50']:5.1f}")
    print(f"Report: {report}   ({(time.monotonic() - begin) / 60:.1f} minutes)")


if __name__ == "__main__":
    run_tool(main)
