#!/usr/bin/env python
"""Draw a detector's predictions beside the ground truth, or alone on images of your own.

python tools/visualize.py output/run                       # its test set, its newest weights
python tools/visualize.py output/run --images my/folder --threshold 0.3
python tools/visualize.py configs/quickstart/finetune.py --weights model.safetensors
python tools/visualize.py output/run --attention           # what a DETR-style detector looks at
python tools/visualize.py output/run --attention --layer 0 --queries 17 42 --points 0.3,0.5
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from PIL import Image
from torch import nn

from d2_unsupdet.analysis.attention import trace_attention
from d2_unsupdet.analysis.attention_pictures import draw_attention
from d2_unsupdet.analysis.pictures import draw_predictions
from d2_unsupdet.checkpoint.checkpointer import newest_weights
from d2_unsupdet.checkpoint.load import load_weights
from d2_unsupdet.cli import run_tool
from d2_unsupdet.data import DetectionMapper, catalog
from d2_unsupdet.data.images import BadImage
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.run import build_model, prepare
from d2_unsupdet.errors import UserError

GRID = [(x, y) for y in (0.3, 0.7) for x in (0.3, 0.7)]  # where no query is sure


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN_OR_CONFIG", help="folder of a run, or config"
    )
    parser.add_argument(
        "--weights", help="weights of the whole detector; default: the run's newest"
    )
    parser.add_argument("--images", nargs="+", help="image files or folders; default: the test set")
    parser.add_argument(
        "--out", type=Path, help="folder for the pictures; default: RUN/predictions or /attention"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.3, help="lowest score that is drawn (default 0.3)"
    )
    parser.add_argument("--limit", type=int, default=20, help="how many images, evenly spread")
    parser.add_argument("--allow-unsafe", action="store_true", help="run code that weights bring")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="overrides")
    group = parser.add_argument_group("attention of DETR-style detectors")
    group.add_argument(
        "--attention", action="store_true", help="draw what tokens and queries look at instead"
    )
    group.add_argument("--best", type=int, default=3, help="how many of the surest queries")
    group.add_argument("--queries", nargs="+", type=int, help="these queries, by number, instead")
    group.add_argument(
        "--points",
        nargs="+",
        type=point,
        metavar="X,Y",
        help="places whose tokens' self-attention is drawn, in 0..1 of the image; default: centres "
        "of the queries' boxes",
    )
    group.add_argument("--layer", type=int, default=-1, help="from 0; default: the last")
    group.add_argument("--level", type=int, default=0, help="of these tokens; default: the finest")
    return parser.parse_args(argv)


def point(text: str) -> tuple[float, float]:
    """X,Y of the command line."""
    x, y = text.split(",")
    return float(x), float(y)


def load_model(cfg: Any, run: Path | None, weights: str | None, allow_unsafe: bool) -> nn.Module:
    """The detector with the given weights, or with the newest of the run."""
    model = build_model(cfg)
    if weights is not None:
        print(load_weights(model, weights, allow_missing=(), allow_unsafe=allow_unsafe))
        return model.eval()
    if run is None:
        raise UserError("There are no weights: a config holds none; give --weights FILE.")
    model.load_state_dict(newest_weights(run))
    return model.eval()


def find_records(cfg: Any, images: Sequence[str] | None) -> list[dict]:
    """Records of the test set, or unlabelled ones of files and folders."""
    if images is None:
        return catalog.get_dataset(cfg.dataloader.test.dataset.names)
    records: list[dict] = []
    for path in map(Path, images):
        if path.is_dir():
            records += catalog.get_dataset(f"folder:{path.resolve()}")
        elif path.is_file():
            records.append({"file_name": str(path), "image_id": str(path)})
        else:
            raise UserError(f"There is no image or folder '{path}'.")
    return records


def spread(records: Sequence[dict], limit: int) -> list[dict]:
    """At most `limit` of them, evenly spaced, the first included."""
    count = min(limit, len(records))
    return [records[i * len(records) // count] for i in range(count)]


Draw = Callable[[dict, dict], Any]


def draw(mapper: Any, records: Sequence[dict], picture: Draw) -> Iterator[tuple[str, Any]]:
    """(file name, picture) of every image that can be read; says which cannot."""
    for record in records:
        masks = any("segmentation" in a for a in record.get("annotations", ()))
        labelled = DetectionMapper(is_train=True, augmentations=[], use_instance_mask=masks)
        try:
            sample, truth = mapper(dict(record)), labelled(dict(record))
        except BadImage as error:
            print(f"left out: {error.path}: {error.reason}")
            continue
        yield record["file_name"], picture(sample, truth)


@torch.no_grad()
def predictions(
    model: nn.Module, names: Sequence[str], args: argparse.Namespace, sample: dict, truth: dict
) -> Any:
    """Ground truth, if there is any, beside what the model finds."""
    output = model([sample])[0]
    if "instances" not in output:
        raise UserError(f"{type(model).__name__} predicts no boxes; this draws detectors only.")
    found, real = output["instances"].to("cpu"), truth.get("instances")
    if real is not None and real.has("gt_masks") and not found.has("pred_masks"):
        real.remove("gt_masks")  # both halves show what the detector knows
    scores = found.scores.tolist()
    args.highest = max([getattr(args, "highest", 0.0), *scores])
    return draw_predictions(truth["image"], real, found, names, args.threshold)


def attention(
    model: nn.Module, names: Sequence[str], args: argparse.Namespace, sample: dict, truth: dict
) -> Any:
    """What the chosen points and queries look at."""
    trace = trace_attention(model, [sample], layer=args.layer)
    if args.queries is not None:
        queries = [trace.query(index) for index in args.queries]
    else:
        queries = trace.best(count=args.best, threshold=args.threshold)
    points = args.points or [query.center for query in queries] or GRID
    return draw_attention(truth["image"], trace, queries, points, names, level=args.level)


def main(argv: Sequence[str] | None = None) -> None:
    """Read, predict, draw, say where."""
    args = parse(argv)
    if not args.attention and (args.queries or args.points):
        raise UserError("--queries and --points choose what attention is drawn: add --attention.")
    run = args.run if args.run.is_dir() else None
    config = args.run / "config.yaml" if run is not None else args.run
    cfg = load_config(str(config), [*args.set, "train.init_checkpoint="])
    if cfg.dataloader.get("test") is None:
        raise UserError(f"{config} has no dataloader.test; it is not that of a detector.")
    cfg = prepare(cfg, eval_only=True)
    records = spread(find_records(cfg, args.images), args.limit)
    model = load_model(cfg, run, args.weights, args.allow_unsafe)
    names = catalog.class_names(cfg.dataloader.test.dataset.names)
    kind = attention if args.attention else predictions
    out = args.out or (run or Path("output")) / kind.__name__
    out.mkdir(parents=True, exist_ok=True)
    mapper = instantiate(cfg.dataloader.test.mapper)
    count = 0
    for file_name, picture in draw(mapper, records, partial(kind, model, names, args)):
        Image.fromarray(picture).save(out / f"{count:04d}_{Path(file_name).stem}.png")
        count += 1
    print(f"{count} pictures in {out}")
    if getattr(args, "highest", 1.0) < args.threshold:
        print(f"No box is drawn: the highest score is {args.highest:.2g}, see --threshold.")


if __name__ == "__main__":
    run_tool(main)
