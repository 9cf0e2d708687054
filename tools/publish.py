#!/usr/bin/env python
"""Make a folder of a finished run that others can load: weights, config, model card, hashes.

python tools/publish.py output/run published/my_detector
python tools/publish.py output/run published/my_detector --best       # model_best.pth
python tools/publish.py output/pretrain published/my_pretraining      # what transfers of it
python tools/publish.py output/pretrain published/whole --whole       # the pretext's heads too

Nothing is uploaded. `train.init_checkpoint=published/my_detector` loads it, and after an upload of
yours `train.init_checkpoint=hub:OWNER/NAME`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

__registers_later__ = True  # main does: --help answers before torch is imported

import d2_unsupdet
from d2_unsupdet.cli import Parser, run_tool


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="a new folder")
    parser.add_argument("--name", help="default: the run's folder name")
    parser.add_argument("--best", action="store_true", help="model_best.pth, not the last weights")
    parser.add_argument(
        "--whole", action="store_true", help="of pretraining everything, not only what transfers"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Publish, and say what is left to do."""
    args = parse(argv)
    d2_unsupdet.register_all()
    from d2_unsupdet.sharing.publish import publish

    done = publish(args.run, args.out, name=args.name, best=args.best, whole=args.whole)
    for path in done.paths:
        print(f"its config names a place on this machine: {path}")
    print(f"{done.folder}: {done.content}, sha256 {done.sha256}")
    print(f"Read {done.folder / 'README.md'} and choose a licence there before you share it.")


if __name__ == "__main__":
    run_tool(main)
