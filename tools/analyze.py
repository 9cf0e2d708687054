#!/usr/bin/env python
"""Figures about the features of one or more checkpoints, side by side in one picture.

python tools/analyze.py sensitivity moco=output/moco dupr=output/dupr random
python tools/analyze.py matching output/run/export.safetensors --data coco_2017_val --images 50
python tools/analyze.py categories output/dense_siam
python tools/analyze.py curves scratch=output/scratch_s* ours=output/ours_s* --reach 20

A checkpoint is a file of weights in any known layout, the folder of a run, `random` (the first
other checkpoint's architecture) or `random:CHECKPOINT`; LABEL= before it names it in the picture.
`curves` takes folders of runs; those of one LABEL are its seeds.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2_unsupdet.analysis import (
    affinity,
    categories,
    convergence,
    matching,
    neighbours,
    plots,
    sensitivity,
)
from d2_unsupdet.analysis.samples import GEOMETRIES, Sample, Views, draw_views, read_samples
from d2_unsupdet.checkpoint import load_weights, write_json
from d2_unsupdet.checkpoint.backbone import (
    STAGES,
    first_architecture,
    load_resnet,
    model_of_run,
    name_checkpoints,
)
from d2_unsupdet.cli import Parser, positive, run_tool
from d2_unsupdet.engine.build import build_model, choose_device
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.errors import UserError

Loader = Callable[[str], Any]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line: one sub-command a figure."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    kind = argparse.ArgumentDefaultsHelpFormatter
    for name, figure in FIGURES.items():
        one = parts.add_parser(name, help=figure.draw.__doc__, formatter_class=kind)
        one.add_argument(
            "checkpoints", nargs="+", metavar="[LABEL=]CHECKPOINT", help="side by side"
        )
        one.add_argument("--data", default="toy_val", help="name of the data set")
        one.add_argument("--images", type=positive, default=figure.images, help="how many, random")
        one.add_argument("--size", type=positive, default=figure.size, help="side in pixels")
        one.add_argument("--seed", type=int, default=0, help="decides images, boxes and views")
        one.add_argument("--out", type=Path, default=Path("output/analysis"), help="folder")
        one.add_argument("--device", default="auto", help="cpu, cuda, ...; auto: a GPU if any")
        one.add_argument("--allow-unsafe", action="store_true", help="run code that files bring")
        if figure.level:
            one.add_argument("--level", default=figure.level, choices=STAGES, help="feature map")
        if figure.rows:
            one.add_argument("--rows", type=positive, default=figure.rows, help="images drawn")
        for flag, options in figure.extra.items():
            one.add_argument(flag, **options)
    add_curves(parts.add_parser("curves", help=draw_curves.__doc__, formatter_class=kind))
    return parser.parse_args(argv)


def add_curves(one: argparse.ArgumentParser) -> None:
    """Options of the one figure that is about runs and not about features."""
    one.add_argument("runs", nargs="+", metavar="[LABEL=]RUN", help="folders of runs; wildcards")
    one.add_argument("--score", default="bbox/AP", help="as the runs log it")
    one.add_argument("--x", default="iterations", choices=("iterations", "epochs", "images"))
    one.add_argument("--reach", type=float, help="also tell when this score is reached")
    one.add_argument("--out", type=Path, default=Path("output/analysis"), help="folder")


def draw_curves(args: argparse.Namespace) -> None:
    """a score against training, several settings in one figure, seeds as a band"""
    groups = convergence.group_runs(args.runs)
    options = {"score": args.score, "axis": args.x, "reach": args.reach}
    results = convergence.convergence(groups, **options)
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / "curves.png"
    plots.save(convergence.draw(results, **options), picture)
    told = {label: result.to_json() for label, result in results.items()}
    write_json(
        picture.with_suffix(".json"), {"figure": "curves", "settings": options, "curves": told}
    )
    for label, one in told.items():
        spread = f" ± {one['last_std']:.2f}" if one["last_std"] is not None else ""
        text = f"{label}: {args.score} {one['last']:.2f}{spread} after {one['x'][-1]:g} {args.x}"
        if args.reach is not None:
            when = one["reached_mean"]
            done = sum(v is not None for v in one["reached"])
            text += f"; {args.reach:g} reached " + (
                f"after {when:g}" if when is not None else f"by {done} of {len(one['runs'])} runs"
            )
        print(text)
    print(f"wrote {picture} and curves.json")


def draw_sensitivity(args: argparse.Namespace, load: Loader) -> tuple[Any, Mapping[str, Any]]:
    """similarity of regions to an object against their IoU with it"""
    samples = read_samples(args.data, args.images, seed=args.seed, boxes=True)
    settings = {"level": args.level, "side": args.size, "roi_size": args.roi_size}
    results = {
        label: sensitivity.sensitivity(
            load(label), samples, bins=args.bins, seed=args.seed, progress=True, **settings
        )
        for label in args.named
    }
    title = f"Spatial sensitivity: {args.level}, {len(samples)} objects of {args.data}"
    told = {label: result.to_json() for label, result in results.items()}
    return sensitivity.draw(results, title), told


def draw_neighbours(args: argparse.Namespace, load: Loader) -> tuple[Any, Mapping[str, Any]]:
    """the images nearest to a few queries by their whole feature map"""
    samples = read_samples(args.data, args.images, seed=args.seed)
    if len(samples) < 2:
        raise UserError(f"Neighbours need at least 2 images of '{args.data}'; raise --images.")
    settings = {"queries": args.rows, "k": args.neighbours, "level": args.level, "side": args.size}
    results = {
        label: neighbours.neighbours(load(label), samples, progress=True, **settings)
        for label in args.named
    }
    title = f"Nearest of {len(samples)} images of {args.data}, dense {args.level}"
    told = {label: result.to_json(samples) for label, result in results.items()}
    return neighbours.draw(results, samples, title), told


def draw_affinity(args: argparse.Namespace, load: Loader) -> tuple[Any, Mapping[str, Any]]:
    """which cells of an object in one view the cells in another choose"""
    samples = read_samples(args.data, args.images, seed=args.seed, boxes=True)
    pairs = view_pairs(samples, args, whole_box=True)
    settings = {"level": args.level, "size": args.roi_size, "tau": args.tau}
    results = {
        label: affinity.affinity(load(label), pairs, progress=True, **settings)
        for label in args.named
    }
    title = f"Affinity of an object's cells in two views: {args.level}, tau {args.tau:g}"
    told = {label: result.to_json() for label, result in results.items()}
    return affinity.draw(results, pairs[: args.rows], title), told


def draw_matching(args: argparse.Namespace, load: Loader) -> tuple[Any, Mapping[str, Any]]:
    """each patch's most similar patch in another view, and how far it is off"""
    pairs = view_pairs(read_samples(args.data, args.images, seed=args.seed), args)
    results = {
        label: matching.matching(load(label), pairs, level=args.level, progress=True)
        for label in args.named
    }
    title = (
        "Most similar patches of two views (blue: right to one cell, orange: not): "
        f"{args.level} at {args.size} pixels, {args.geometry}"
    )
    shown = range(min(args.rows, len(pairs)))
    told = {label: result.to_json() for label, result in results.items()}
    return matching.draw(results, pairs, title, shown=shown, lines=args.lines), told


def draw_categories(args: argparse.Namespace, load: Loader) -> tuple[Any, Mapping[str, Any]]:
    """the pseudo-categories that a DenseSiam run gives to two views"""
    pairs = view_pairs(read_samples(args.data, args.images, seed=args.seed), args)
    results = {
        label: categories.categories(load(label), pairs, progress=True) for label in args.named
    }
    shown = range(min(args.rows, len(pairs)))
    told = {label: result.to_json() for label, result in results.items()}
    return categories.draw(results, pairs, "Pseudo-categories of two views", shown=shown), told


@dataclass(frozen=True)
class Figure:
    """What draws a figure, and its options; the defaults of size and level are the paper's."""

    draw: Callable[[argparse.Namespace, Loader], tuple[Any, Mapping[str, Any]]]
    images: int
    size: int
    level: str | None
    rows: int | None
    extra: Mapping[str, Mapping[str, Any]]


GEOMETRY = {"default": "crop", "choices": GEOMETRIES, "help": "of the views"}
FIGURES = {
    "sensitivity": Figure(
        draw_sensitivity,
        images=200,
        size=224,
        level="res4",
        rows=None,
        extra={
            "--roi-size": {"type": positive, "default": 7, "help": "cells a side of RoIAlign"},
            "--bins": {"type": positive, "default": 20, "help": "of IoU"},
        },
    ),
    "neighbours": Figure(
        draw_neighbours,
        images=200,
        size=224,
        level="res5",
        rows=6,
        extra={"--neighbours": {"type": positive, "default": 4, "help": "of each query"}},
    ),
    "affinity": Figure(
        draw_affinity,
        images=50,
        size=448,
        level="res5",
        rows=3,
        extra={
            "--roi-size": {"type": positive, "default": 14, "help": "cells a side of RoIAlign"},
            "--tau": {"type": float, "default": 0.001, "help": "temperature of the softmax"},
        },
    ),
    "matching": Figure(
        draw_matching,
        images=50,
        size=448,
        level="res4",
        rows=3,
        extra={
            "--geometry": GEOMETRY,
            "--lines": {"type": positive, "default": 25, "help": "drawn in a picture"},
        },
    ),
    "categories": Figure(
        draw_categories,
        images=50,
        size=448,
        level=None,
        rows=3,
        extra={
            "--geometry": GEOMETRY,
            "--config": {"help": "of checkpoints that are files, not runs"},
        },
    ),
}


def view_pairs(
    samples: Sequence[Sample], args: argparse.Namespace, *, whole_box: bool = False
) -> list[Views]:
    """Two views of each sample; says how many have none that fit."""
    geometry = getattr(args, "geometry", "crop")
    found = [
        draw_views(s, i, size=args.size, seed=args.seed, whole_box=whole_box, geometry=geometry)
        for i, s in enumerate(samples)
    ]
    pairs = [views for views in found if views is not None]
    if len(pairs) < len(found):
        print(f"left out {len(found) - len(pairs)} images whose box fills too much of them")
    if not pairs:
        raise UserError(f"No crop of '{args.data}' shows a whole object; raise --images.")
    return pairs


def load_network(source: str, args: argparse.Namespace) -> Any:
    """The frozen ResNet of a checkpoint, or the whole method for its pseudo-categories."""
    device = choose_device(args.device)
    if args.figure != "categories":
        like = first_architecture(args.named.values())
        net = load_resnet(source, allow_unsafe=args.allow_unsafe, like=like, seed=args.seed)
        return net.to(device)
    if Path(source).is_dir():
        return model_of_run(source, allow_unsafe=args.allow_unsafe).to(device)
    if args.config is None:
        raise UserError(f"'{source}' is no folder of a run: name its --config too.")
    sets = ["train.init_checkpoint=", "train.device=cpu"]
    model = build_model(load_config(args.config, sets, allow_unsafe=args.allow_unsafe))
    print(load_weights(model, source, allow_missing=(), allow_unsafe=args.allow_unsafe))
    return model.to(device).eval()


def headline(result: Mapping[str, Any]) -> str:
    """The numbers of a result that stand for all of it."""
    means = {k: v["mean"] if isinstance(v, dict) and "mean" in v else v for k, v in result.items()}
    numbers = {k: v for k, v in means.items() if isinstance(v, int | float)}
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in numbers.items())


def main(argv: Sequence[str] | None = None) -> None:
    """Load, measure, draw, say where."""
    args = parse(argv)
    if args.figure == "curves":
        plots.require_matplotlib()
        draw_curves(args)
        return
    args.named = name_checkpoints(args.checkpoints)
    plots.require_matplotlib()

    def load(label: str) -> Any:
        print(f"{label}: {args.named[label]}")  # the progress bar below it is this one's
        return load_network(args.named[label], args)

    figure, told = FIGURES[args.figure].draw(args, load)
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out / f"{args.figure}.png"
    plots.save(figure, picture)
    left = ("figure", "checkpoints", "named", "out", "device", "allow_unsafe")
    settings = {key: value for key, value in vars(args).items() if key not in left}
    results = {label: {"source": args.named[label], **told[label]} for label in told}
    numbers = picture.with_suffix(".json")
    write_json(numbers, {"figure": args.figure, "settings": settings, "checkpoints": results})
    for label, result in told.items():
        print(f"{label}: {headline(result)}")
    print(f"wrote {picture} and {numbers.name}")


if __name__ == "__main__":
    run_tool(main)
