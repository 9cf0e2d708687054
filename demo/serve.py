#!/usr/bin/env python
"""A page on this machine that shows what a trained model sees in an image of yours.

    python demo/serve.py output/run                          # boxes, and attention of a DETR
    python demo/serve.py output/run --images my/folder       # and the images most like it
    python demo/serve.py output/run --images toy_val         # the same in a data set
    python demo/serve.py output/moco --images my/folder      # a backbone has neighbours alone
    python demo/serve.py weights.pth --config output/run/config.yaml

It listens on 127.0.0.1, needs no network and keeps no upload. docs/demo.md says the rest.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from uploads import Limits
from viewer import Viewer
from web import Server

from d2_unsupdet.analysis.alike import Gallery
from d2_unsupdet.analysis.look import Looker, open_looker
from d2_unsupdet.cli import Parser, positive, run_tool
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.build import choose_device
from d2_unsupdet.errors import UserError


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model",
        metavar="CHECKPOINT_OR_RUN",
        help="folder of a run, hub:owner/name, or a file of weights: in a run's folder its config "
        "is taken, elsewhere --config, else its ResNet alone is used",
    )
    parser.add_argument("--config", help="config of the detector whose weights the file holds")
    parser.add_argument(
        "--images", metavar="FOLDER_OR_DATASET", help="where neighbours are looked for"
    )
    parser.add_argument(
        "--limit", type=positive, default=1000, help="of these, evenly spread (default 1000)"
    )
    parser.add_argument("--port", type=int, default=8009, help="default 8009; 0: any free one")
    parser.add_argument("--device", help="cpu, cuda, ...; default: as the run's config says")
    parser.add_argument("--megabytes", type=float, default=10, help="largest upload (default 10)")
    parser.add_argument(
        "--megapixels", type=float, default=25, help="largest image (default 25 million pixels)"
    )
    parser.add_argument("--allow-unsafe", action="store_true", help="run code that files bring")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides")
    args = parser.parse_args(argv)
    for name in ("megabytes", "megapixels"):
        if not 0 < getattr(args, name) < 1e6:
            parser.error(f"--{name} {getattr(args, name):g} is no size")
    if not 0 <= args.port < 65536:
        parser.error(f"--port {args.port} is none: take one from 1024 to 65535")
    return args


def open_model(args: argparse.Namespace) -> Looker:
    """What the command line names."""
    device = [f"train.device={args.device}"] if args.device else []
    looker = open_looker(
        args.config or args.model,
        weights=args.model if args.config else None,
        overrides=[*args.set, *device],
        allow_unsafe=args.allow_unsafe,
    )
    if looker.shown is None:
        looker.net.to(choose_device(args.device or "auto"))
    return looker


def open_gallery(looker: Looker, images: str | None, limit: int) -> Gallery | None:
    """The images of a folder or a data set, evenly spread where there are more than `limit`."""
    if images is None:
        return None
    name = f"folder:{Path(images).resolve()}" if Path(images).is_dir() else images
    paths = [record["file_name"] for record in catalog.get_dataset(name)]
    count = min(limit, len(paths))
    gallery = Gallery(looker.net)
    bad = gallery.add([paths[i * len(paths) // count] for i in range(count)], progress=True)
    if bad:
        print(f"left out {len(bad)} unreadable images, the first: {bad[0]}")
    more = f" of {len(paths)}, see --limit" if count < len(paths) else ""
    print(f"{len(gallery)} images to compare with{more}")
    return gallery


def told(looker: Looker, gallery: Gallery | None) -> str:
    """What will be shown."""
    if looker.shown is None and gallery is None:
        raise UserError(
            f"{looker.label} is a backbone, which answers with neighbours alone: add "
            "--images FOLDER_OR_DATASET."
        )
    parts = ["boxes"] * (looker.shown is not None) + ["attention"] * looker.attends
    return ", ".join([*parts, *["neighbours"] * (gallery is not None)])


def build(args: argparse.Namespace) -> Server:
    """The server, ready to serve."""
    looker = open_model(args)
    if args.images is None:
        told(looker, None)  # before anything is bound
    gallery = open_gallery(looker, args.images, args.limit)
    limits = Limits(megabytes=args.megabytes, megapixels=args.megapixels)
    try:
        server = Server(Viewer(looker, gallery, limits=limits), args.port)
    except OSError as error:
        raise UserError(
            f"Port {args.port} cannot be taken ({error.strerror}): give another with --port."
        ) from None
    print(f"{looker.label}: {told(looker, gallery)}")
    return server


def main(argv: Sequence[str] | None = None) -> None:
    """Load, say where, serve until Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    with build(parse(argv)) as server:
        print(f"Open {server.address} in a browser; Ctrl-C ends it.", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    run_tool(main)
