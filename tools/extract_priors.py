#!/usr/bin/env python
"""Find the boxes of a data set once, for every pretraining that follows.

python tools/extract_priors.py --dataset coco_2017_train --out priors/coco
python tools/extract_priors.py --dataset /my/images --source edge-boxes:model=model.yml.gz --out p
python tools/extract_priors.py --dataset toy_unlabeled --out priors/toy \\
    --source selective-search:ranked=contrast,side=[0.06,0.75],most_aspect=3.5
torchrun --nproc-per-node 8 tools/extract_priors.py --dataset imagenet_train --processes 4 --out p
python tools/extract_priors.py --dataset imagenet_train --out p --slurm 64 --set timeout_min=600
python tools/extract_priors.py --report priors/coco --dataset coco_2017_train

A source may carry its values, NAME:key=value,key=value, or be module:Class. The same command goes
on after a kill. Several started at once, on any machines that share the disk, share the work.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import yaml

from d2_unsupdet.cli import Parser, positive, run_tool
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.by_name import NAMES, source_by_name
from d2_unsupdet.priors.extraction import describe
from d2_unsupdet.priors.generation import Generation
from d2_unsupdet.priors.job import throw_away
from d2_unsupdet.priors.plan import ExtractionPlan, read_records
from d2_unsupdet.priors.quality import summary, write_report
from d2_unsupdet.priors.slurm import make_executor, run_array
from d2_unsupdet.priors.store import PriorStore

DEFAULT = "selective-search:orders=4"  # four searches an image; DETReg draws a new one each epoch


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="name of a data set, or a folder")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--out", help="folder of the store")
    place.add_argument("--report", metavar="STORE", help="only say how good its boxes are")
    sources = f"{', '.join(NAMES)}, or module:Class ({DEFAULT})"
    parser.add_argument("--source", default=DEFAULT, help=sources)
    parser.add_argument("--generation", type=int, default=0, help="of the store (0)")
    parser.add_argument("--subset", help="of the images: 500, 10%%, 10%%@seed1")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (0)")
    parser.add_argument("--root", help="folder that image names begin at (found by itself)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="0: this one (the cores)"
    )
    parser.add_argument("--shard-size", type=positive, default=512, help="images a shard (512)")
    parser.add_argument(
        "--restart", action="store_true", help="first delete this generation, finished or not"
    )
    parser.add_argument("--slurm", type=positive, metavar="TASKS", help="as an array, by submitit")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="submitit's: timeout_min=600 ..."
    )
    parser.add_argument(
        "--report-images", type=int, default=2000, help="images the report looks at (2000; 0: none)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Extract, then report; or only one of them."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse(argv)
    if args.report:
        report(PriorStore(args.report, root=args.root).open(args.generation), args)
        return
    plan = ExtractionPlan(
        dataset=args.dataset,
        store=args.out,
        source=args.source,
        generation=args.generation,
        subset=args.subset,
        seed=args.seed,
        shard_size=args.shard_size,
        root=args.root,
    )
    source_by_name(args.source)  # a mistake is said here, not by each process
    rank = int(os.environ.get("RANK", 0))
    if args.restart:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise UserError(
                "--restart under torchrun deletes what other ranks begin: run it alone."
            )
        throw_away(PriorStore(args.out), args.generation)
    found = send(plan, args) if args.slurm else run(plan, args, rank)
    if found is not None and rank == 0:
        print(describe(found))
        if args.report_images:
            report(found, args)


def run(plan: ExtractionPlan, args: argparse.Namespace, rank: int) -> Generation | None:
    """Here: alone, or as one of torchrun's ranks, which all return when all is published."""
    ranks = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return plan.run(processes=args.processes, wait=ranks, progress=rank == 0)


def send(plan: ExtractionPlan, args: argparse.Namespace) -> Generation | None:
    """As an array of Slurm jobs; what they leave is done here."""
    settings = {"cpus_per_task": max(args.processes, 1), "timeout_min": 24 * 60}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text} is not of the form key=value.")
        settings[key] = yaml.safe_load(value)
    cluster = settings.pop("cluster", "slurm")
    executor = make_executor(Path(args.out) / "slurm", settings, cluster=cluster)
    run_array(executor, partial(plan.run_task, processes=args.processes), args.slurm)
    return plan.run(processes=args.processes)


def report(found: Generation, args: argparse.Namespace) -> None:
    """Write and print the quality of what was found."""
    records = read_records(args.dataset, subset=args.subset)
    folder = found.folder.with_name(found.folder.name.replace("generation", "report"))
    measured = write_report(found, records, folder, images=args.report_images or 2000)
    print(f"{summary(measured)}\n{folder / 'quality.json'}, {folder / 'contact_sheet.png'}")


if __name__ == "__main__":
    run_tool(main)
