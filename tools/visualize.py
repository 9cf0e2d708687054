#!/usr/bin/env python
"""Draw what detectors find, look at and call foreground, finetuned or not; several side by side.

python tools/visualize.py output/run                       # its test set, its newest weights
python tools/visualize.py output/run --images my/folder --threshold 0.3
python tools/visualize.py configs/quickstart/finetune.py --weights model.safetensors
python tools/visualize.py output/pretrain --top 10         # pretrained only: its ten surest boxes
python tools/visualize.py output/run --compare scratch=output/other_run best=model_best.pth random
python tools/visualize.py output/run --attention           # what a DETR-style detector looks at
python tools/visualize.py output/run --attention --layer 0 --queries 17 42 --points 0.3,0.5
python tools/visualize.py output/pretrain --eigen encoder  # normalised cut of its features
python tools/visualize.py output/pretrain --priors         # its boxes over the refreshes
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2_unsupdet.analysis.attention import trace_attention
from d2_unsupdet.analysis.attention_pictures import draw_attention
from d2_unsupdet.analysis.compare_pictures import draw_answers
from d2_unsupdet.analysis.detectors import Shown, open_detector, open_like
from d2_unsupdet.analysis.eigen_pictures import PLACES, draw_eigen, eigen_attention
from d2_unsupdet.analysis.pictures import (
    below,
    beside,
    draw_instances,
    titled,
    to_rgb,
)
from d2_unsupdet.analysis.prior_pictures import draw_generations, evenly
from d2_unsupdet.analysis.which_boxes import as_objects
from d2_unsupdet.checkpoint.backbone import name_checkpoints
from d2_unsupdet.cli import Parser, positive, run_tool
from d2_unsupdet.data import DetectionMapper, catalog
from d2_unsupdet.data.images import BadImage
from d2_unsupdet.engine.config import scored_set
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import PriorStore
from d2_unsupdet.priors.quality import find

GRID = [(x, y) for y in (0.3, 0.7) for x in (0.3, 0.7)]  # where no query is sure


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN_OR_CONFIG", help="folder of a run, or config")
    parser.add_argument(
        "--weights",
        help="weights of the whole detector, or 'random'; default: the run's newest",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="[LABEL=]RUN_OR_WEIGHTS",
        help="other detectors in the same picture: folders of runs, weights of this config, random",
    )
    parser.add_argument("--images", nargs="+", help="image files or folders; default: the test set")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the pictures; default: RUN/predictions, RUN/attention ..., whose earlier "
        "pictures are replaced",
    )
    parser.add_argument(
        "--threshold", type=share, default=0.3, help="lowest score that is drawn (default 0.3)"
    )
    parser.add_argument(
        "--top", type=positive, help="draw so many boxes of each image, whatever they score"
    )
    parser.add_argument("--limit", type=int, default=20, help="how many images, evenly spread")
    parser.add_argument("--allow-unsafe", action="store_true", help="run code that files bring")
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
    other = parser.add_argument_group("pretraining")
    other.add_argument(
        "--eigen", choices=PLACES, help="draw the normalised cut of these features instead"
    )
    other.add_argument(
        "--priors",
        nargs="?",
        const="",
        metavar="STORE",
        help="draw stored boxes instead, one panel a generation; default: RUN/priors, else the "
        "store that the run's config reads",
    )
    args = parser.parse_args(argv)
    chosen = [bool(args.attention), args.eigen is not None, args.priors is not None]
    if sum(chosen) > 1:
        parser.error("--attention, --eigen and --priors are different pictures: choose one")
    return args


def share(text: str) -> float:
    """A score of the command line."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is none: a score is from 0 to 1")
    return value


def point(text: str) -> tuple[float, float]:
    """X,Y of the command line."""
    x, y = text.split(",")
    return float(x), float(y)


def find_records(cfg: Any, images: Sequence[str] | None) -> list[dict]:
    """Records of the test set (of the training set where there is none), or of one's own images."""
    if images is None:
        part = scored_set(cfg) or cfg.dataloader.train
        return catalog.get_dataset(part.dataset.names)
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


def labelled(record: dict) -> dict:
    """The image as it is, and its objects if it has any."""
    masks = any("segmentation" in a for a in record.get("annotations", ()))
    mapper = DetectionMapper(is_train=True, augmentations=[], use_instance_mask=masks)
    return mapper(dict(record))


Picture = Callable[[Sequence[Shown], dict, dict, argparse.Namespace], np.ndarray]


def draw(
    shown: Sequence[Shown], records: Sequence[dict], picture: Picture, args: argparse.Namespace
) -> Iterator[tuple[str, np.ndarray]]:
    """(file name, picture) of every image that can be read; says which cannot."""
    for record in records:
        try:
            yield record["file_name"], picture(shown, record, labelled(record), args)
        except BadImage as error:
            print(f"left out: {error.path}: {error.reason}")


def predictions(
    shown: Sequence[Shown], record: dict, truth: dict, args: argparse.Namespace
) -> np.ndarray:
    """Ground truth, if there is any, beside what each detector finds."""
    found = [one.find(one.mapper(dict(record))) for one in shown]
    scores = [score for instances in found for score in instances.scores.tolist()]
    args.highest = max([getattr(args, "highest", 0.0), *scores])
    return draw_answers(truth, shown, found, threshold=args.threshold, top=args.top)


def attention(
    shown: Sequence[Shown], record: dict, truth: dict, args: argparse.Namespace
) -> np.ndarray:
    """What the chosen points and queries look at, one block a detector."""
    blocks = []
    for one in shown:
        trace = trace_attention(one.detector, [one.mapper(dict(record))], layer=args.layer)
        if args.queries is not None:
            queries = [trace.query(index) for index in args.queries]
        else:
            queries = trace.best(count=args.best, threshold=0.0 if args.top else args.threshold)
        points = args.points or [query.center for query in queries] or GRID
        block = draw_attention(truth["image"], trace, queries, points, one.names, level=args.level)
        blocks.append(titled(block, one.label) if len(shown) > 1 else block)
    return below(blocks)


def eigen(
    shown: Sequence[Shown], record: dict, truth: dict, args: argparse.Namespace
) -> np.ndarray:
    """The foreground that a normalised cut of each detector's features finds."""
    real, rgb = truth.get("instances"), to_rgb(truth["image"])
    panels = []
    if real is not None:
        panels.append(titled(draw_instances(rgb, as_objects(real), [""]), "ground truth"))
    for one in shown:
        sample = one.mapper(dict(record))
        cut = eigen_attention(one.detector, sample, place=args.eigen, level=args.level)
        height, width = sample["image"].shape[-2:]
        panels.append(draw_eigen(rgb, (height, width), cut, one.label))
    return beside(panels)


def open_all(args: argparse.Namespace) -> list[Shown]:
    """The detector and those it is compared with."""
    first = open_detector(
        args.run,
        label=Path(args.run).resolve().stem,
        weights=args.weights,
        overrides=args.set,
        allow_unsafe=args.allow_unsafe,
    )
    if not args.compare:
        return [first]
    options = {"allow_unsafe": args.allow_unsafe}
    others = name_checkpoints(args.compare)
    return [first, *(open_like(first, others[k], label=k, **options) for k in others)]


def draw_priors(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Stored boxes of the run's images, one panel a generation."""
    from d2_unsupdet.engine.config import load_config

    run = Path(args.run)
    config = str(run / "config.yaml" if run.is_dir() else run)
    cfg = load_config(config, args.set, allow_unsafe=args.allow_unsafe)
    store = PriorStore(args.priors or store_of(run, cfg))
    numbers = evenly(store.generations, 5)
    if not numbers:
        store.open()  # says what is missing
    generations = {number: store.open(number) for number in numbers}
    records = spread(find_records_of_training(cfg, args.images), args.limit)
    if not any(find(generation, r)[0] for generation in generations.values() for r in records):
        made = dict(generations[numbers[0]].settings)
        raise UserError(
            f"{store.path} knows none of the {len(records)} images, so there is nothing to draw: "
            f"it was made of {made.get('dataset')} (subset {made.get('subset')}); name its images "
            "by --images, or by --set dataloader.train.dataset.names=... and .subset=..."
        )
    for record in records:
        try:
            truth = labelled(record)
        except BadImage as error:
            print(f"left out: {error.path}: {error.reason}")
            continue
        height, width = truth["image"].shape[-2:]
        found = {n: g.lookup(record, width, height) for n, g in generations.items()}
        boxes = {n: None if f is None else f.scaled(width, height) for n, f in found.items()}
        yield record["file_name"], draw_generations(truth["image"], boxes, limit=args.top or 30)


def store_of(run: Path, cfg: Any) -> Path:
    """The boxes that a run makes itself, else those that its config reads."""
    if PriorStore(run / "priors").generations:
        return run / "priors"
    source = cfg.dataloader.train.mapper.get("source") or {}
    if source.get("path"):
        return Path(source["path"])
    raise UserError(f"{run} has no stored boxes and its config reads none: say --priors STORE.")


def find_records_of_training(cfg: Any, images: Sequence[str] | None) -> list[dict]:
    """Records whose boxes a run of pretraining uses, or of one's own images."""
    if images is not None:
        return find_records(cfg, images)
    chosen = cfg.dataloader.train.dataset
    return catalog.get_dataset(chosen.names, subset=chosen.get("subset"))


def pictures_of(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """What the command line asks for."""
    if args.priors is not None:
        return draw_priors(args)
    shown = open_all(args)
    records = spread(find_records(shown[0].cfg, args.images), args.limit)
    kind = attention if args.attention else eigen if args.eigen else predictions
    return draw(shown, records, kind, args)


def folder_of(args: argparse.Namespace) -> Path:
    """Named after what is drawn, so that different pictures do not share a folder."""
    kinds = {"attention": args.attention, "eigen": args.eigen, "pictures_priors": args.priors}
    parts = [next((kind for kind, wanted in kinds.items() if wanted), "predictions")]
    if args.priors is not None:
        parts = ["pictures_priors", *Path(args.priors).parts[-2:]]
    parts += [f"vs_{label}" for label in name_checkpoints(args.compare)] if args.compare else []
    parts += [Path(path).resolve().stem for path in (args.images or ())[:1]]
    name = re.sub(r"[^\w.@-]+", "_", "_".join(part for part in parts if part != "/"))
    return (Path(args.run) if Path(args.run).is_dir() else Path("output")) / name


def main(argv: Sequence[str] | None = None) -> None:
    """Read, predict, draw, say where."""
    args = parse(argv)
    if not args.attention and (args.queries or args.points):
        raise UserError("--queries and --points choose what attention is drawn: add --attention.")
    out = args.out or folder_of(args)
    count, before = 0, set(out.glob("[0-9][0-9][0-9][0-9]_*.png"))
    for file_name, picture in pictures_of(args):
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{count:04d}_{Path(file_name).stem}.png"
        Image.fromarray(picture).save(path)
        before.discard(path)
        count += 1
    if before and args.out:
        print(f"{len(before)} pictures were in {out} before and stay there")
    for path in () if args.out else before:  # the folder is this tool's own
        path.unlink()
    print(f"{count} pictures in {out}")
    if not args.top and getattr(args, "highest", 1.0) < args.threshold:
        print(f"No box is drawn: the highest score is {args.highest:.2g}, see --threshold.")


if __name__ == "__main__":
    run_tool(main)
