#!/usr/bin/env python
"""Write a detector as an ONNX file whose answers were compared with the detector's.

python tools/export_onnx.py output/run detector.onnx                    # for its test images
python tools/export_onnx.py output/run detector.onnx --size 800x1088
python tools/export_onnx.py published/my_detector detector.onnx --images photos
python tools/export_onnx.py CONFIG detector.onnx --weights model.safetensors

The file takes a picture on a canvas of that size and gives boxes, scores and labels: see
docs/weights.md, "ONNX".
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2_unsupdet.analysis.detectors import Shown, open_detector
from d2_unsupdet.cli import Parser, positive, run_tool
from d2_unsupdet.data import catalog
from d2_unsupdet.data.images import BadImage
from d2_unsupdet.engine.config import scored_set
from d2_unsupdet.errors import UserError
from d2_unsupdet.sharing.onnx_file import Size, export_onnx

PART = 32  # default sizes are multiples of it


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_OR_CONFIG", help="run, published folder or config")
    parser.add_argument("out", type=Path, metavar="OUT.onnx")
    parser.add_argument(
        "--size",
        type=height_and_width,
        metavar="HxW",
        help="of the canvas; default: the first picture as its test set prepares it, rounded up",
    )
    parser.add_argument("--images", help="folder of pictures to compare on; default: the test set")
    parser.add_argument("--limit", type=positive, default=4, help="how many pictures (default 4)")
    parser.add_argument(
        "--weights", help="weights of the whole detector; default: the run's newest"
    )
    parser.add_argument("--allow-unsafe", action="store_true", help="run code that files bring")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides")
    return parser.parse_args(argv)


def height_and_width(text: str) -> Size:
    """HxW of the command line."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, such as 800x1088")
    return int(height), int(width)


def samples_of(shown: Shown, images: str | None, limit: int) -> list[dict]:
    """The pictures to compare on, as the detector's test set prepares them."""
    test = scored_set(shown.cfg)
    if images is not None:
        name = f"folder:{Path(images).resolve()}"
    elif test is not None:
        name = test.dataset.names
    else:
        raise UserError("The config has no test set to compare answers on: give --images FOLDER.")
    records = catalog.get_dataset(name)
    step = max(1, len(records) // limit)
    found: list[dict] = []
    for record in records[::step]:
        try:
            found.append(shown.mapper(dict(record)))
        except BadImage as error:
            print(f"left out: {error.path}: {error.reason}")
        if len(found) == limit:
            break
    if not found:
        raise UserError(f"{name} has no picture that can be read: give --images FOLDER.")
    return found


def rgb(sample: dict, input_format: str) -> np.ndarray:
    """(h, w, 3) of a sample, whatever order of channels its detector wants."""
    picture = sample["image"].numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(picture[..., ::-1] if input_format == "BGR" else picture)


def main(argv: Sequence[str] | None = None) -> None:
    """Open, export, compare, say how far apart they are."""
    args = parse(argv)
    shown = open_detector(
        args.run,
        label="detector",
        weights=args.weights,
        overrides=[*args.set, "train.device=cpu"],
        allow_unsafe=args.allow_unsafe,
    )
    detector, begin = shown.detector, time.monotonic()
    order = getattr(detector, "input_format", "RGB")
    pictures = [rgb(one, order) for one in samples_of(shown, args.images, args.limit)]
    height, width = pictures[0].shape[:2]
    canvas = args.size or (-(-height // PART) * PART, -(-width // PART) * PART)
    about = {"classes": json.dumps(shown.names), "detector": type(detector).__name__}
    done = export_onnx(detector, args.out, canvas=canvas, pictures=pictures, about=about)
    score = max(one.score for one in done.differences)
    box = max(one.box for one in done.differences)
    count = sum(one.matched for one in done.differences)
    print(
        f"{done.path}: {about['detector']} for {canvas[0]}x{canvas[1]}, {done.size / 1e6:.1f} MB, "
        f"{time.monotonic() - begin:.0f} s"
    )
    print(
        f"{count} detections of {len(pictures)} pictures agree: largest difference {score:.1g} of "
        f"a score, {box:.1g} of the side of a box"
    )


if __name__ == "__main__":
    run_tool(main)
