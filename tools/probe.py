#!/usr/bin/env python
"""How well frozen features tell classes apart: linear classifier, SVM for each stage, neighbours.

python tools/probe.py knn moco=output/moco dupr=output/dupr random
python tools/probe.py svm output/run/export.safetensors --train-data voc_2007_trainval \\
    --test-data voc_2007_test
python tools/probe.py linear output/run --train-data imagenet_train --test-data imagenet_val \\
    --augment --workers 8
python tools/probe.py linear output/run --train-data places365_train --test-data places365_val \\
    --augment --unpooled --epochs 56
python tools/probe.py knn output/run --labels objects

A checkpoint is a file of weights in any known layout, the folder of a run, `random` (the first
other checkpoint's architecture) or `random:CHECKPOINT`; LABEL= before it names it in the table.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2_unsupdet.checkpoint import write_json
from d2_unsupdet.checkpoint.backbone import (
    FrozenResNet,
    check_sources,
    first_architecture,
    load_resnet,
    name_checkpoints,
)
from d2_unsupdet.cli import Parser, positive, run_tool
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.build import choose_device
from d2_unsupdet.engine.digest import state_digest
from d2_unsupdet.evaluation.probes import (
    LARS_PROTOCOL,
    PLACES_PROTOCOL,
    SGD_PROTOCOL,
    STAGES,
    ProbeSet,
    extract,
    knn_scores,
    linear_scores,
    read_probe_set,
    refuse_overlap,
    summarise,
    svm_scores,
)
from d2_unsupdet.evaluation.probes.data import KINDS, ProbeImages
from d2_unsupdet.evaluation.probes.features import (
    chunks,
    pool_grid,
    pool_mean,
    pool_nothing,
    stream,
)
from d2_unsupdet.evaluation.probes.linear import Batches, LinearProtocol
from d2_unsupdet.evaluation.probes.metrics import headline
from d2_unsupdet.evaluation.probes.svm import COSTS, require_sklearn

Results = Mapping[str, dict[str, Any]]  # column of the table -> scores
PROTOCOLS = {"moco": SGD_PROTOCOL, "simsiam": LARS_PROTOCOL, "places": PLACES_PROTOCOL}
PROTOCOLS |= {"sgd": SGD_PROTOCOL, "lars": LARS_PROTOCOL}  # other names of the first two


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line: one sub-command a probe."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="probe", required=True, metavar="PROBE")
    kind = argparse.ArgumentDefaultsHelpFormatter
    added = {}
    for name, run in PROBES.items():
        one = parts.add_parser(name, help=run.__doc__, formatter_class=kind)
        added[name] = one
        one.add_argument("checkpoints", nargs="+", metavar="[LABEL=]CHECKPOINT")
        one.add_argument("--train-data", default="toy_train", help="name of a labelled data set")
        one.add_argument("--test-data", default="toy_val", help="name of a labelled data set")
        one.add_argument(
            "--labels",
            default="auto",
            choices=KINDS,
            help="image: one class an image; multi: the classes of its boxes; objects: each box "
            "cut out",
        )
        one.add_argument("--images", type=int, default=0, help="of each data set; 0: all")
        one.add_argument("--size", type=positive, default=224, help="side in pixels")
        one.add_argument("--batch", type=positive, default=64, help="images at a time")
        one.add_argument("--workers", type=int, default=2, help="loading processes")
        one.add_argument("--seed", type=int, default=0)
        one.add_argument("--out", type=Path, default=Path("output/probes"), help="folder")
        one.add_argument("--device", default="auto", help="cpu, cuda, ...; auto: a GPU if any")
        one.add_argument("--allow-unsafe", action="store_true", help="run code that files bring")
    linear, svm, knn = added["linear"], added["svm"], added["knn"]
    linear.add_argument(
        "--protocol",
        "--optimizer",
        default="auto",
        choices=["auto", *PROTOCOLS],
        help="sgd is moco's, lars simsiam's; auto: places for a data set of that name, else moco",
    )
    pooling = linear.add_mutually_exclusive_group()
    pooling.add_argument(
        "--pooled", dest="unpooled", action="store_false", help="the mean of the map (default)"
    )
    linear.set_defaults(unpooled=False)
    pooling.add_argument(
        "--unpooled", action="store_true", help="every cell of the map: 2048 x 7 x 7 values"
    )
    linear.add_argument("--epochs", type=positive, help="another length than the protocol's")
    linear.add_argument("--lr", type=_rate, help="another rate at a batch of 256")
    linear.add_argument("--weight-decay", type=float, help="another than the protocol's")
    linear.add_argument("--augment", action="store_true", help="new crops in each epoch; slow")
    svm.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    svm.add_argument("--costs", nargs="+", type=float, default=list(COSTS))
    for one in (linear, knn):
        one.add_argument("--stages", nargs="+", choices=list(STAGES), default=["conv5"])
    knn.add_argument("-k", "--neighbours", nargs="+", type=positive, default=[20, 200])
    knn.add_argument("--temperature", type=float, default=0.07)
    return parser.parse_args(argv)


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no rate; it has to be above 0")
    return value


def run_linear(
    net: FrozenResNet, sets: tuple[ProbeSet, ProbeSet], args: argparse.Namespace
) -> Results:
    """a linear classifier on the pooled features"""
    protocol = protocol_of(args)
    pool = pool_nothing if args.unpooled else pool_mean
    before = state_digest(net.state_dict())
    results = {}
    stored = None if args.augment else both(net, sets, args, pool=pool)
    for stage in args.stages:
        options = {"protocol": protocol, "seed": args.seed, "progress": True}
        if stored is None:
            results[stage] = streamed_scores(net, sets, args, stage, pool, options)
            continue
        train, known, test, unknown = stored
        scores = linear_scores(
            train[stage], known.targets, test[stage], single=known.single, **options
        )
        results[stage] = summarise(scores, unknown)
    assert state_digest(net.state_dict()) == before, "the frozen network has changed"
    return results


def protocol_of(args: argparse.Namespace) -> LinearProtocol:
    """The protocol by name or by data set, with what the command line changes."""
    name = args.protocol
    if name == "auto":
        name = "places" if args.train_data.startswith("places") else "moco"
        print(f"protocol: {name}")
    protocol = PROTOCOLS[name]
    epochs, decay = args.epochs or protocol.epochs, args.weight_decay
    return replace(
        protocol,
        lr=protocol.lr if args.lr is None else args.lr,
        weight_decay=protocol.weight_decay if decay is None else decay,
        epochs=epochs,
        drops=tuple(d * epochs / protocol.epochs for d in protocol.drops),
        norm=protocol.norm and not args.unpooled,  # DUPR has none there
    )


def streamed_scores(
    net: FrozenResNet,
    sets: tuple[ProbeSet, ProbeSet],
    args: argparse.Namespace,
    stage: str,
    pool: Callable[[str, Tensor], Tensor],
    options: dict[str, Any],
) -> dict[str, Any]:
    """New crops in each epoch; no more than a batch of features is held."""
    train, test = sets
    shifted = options["protocol"].shifted
    how = {"stage": stage, "pool": pool, "workers": args.workers}
    kept: list[Tensor] = []

    def crops(epoch: int, rows_of: Sequence[Tensor]) -> Batches:
        images = ProbeImages(train, args.size, epoch=epoch, seed=args.seed, shifted=shifted)
        return stream(net, images, [rows.tolist() for rows in rows_of], **how)

    def whole() -> Batches:
        rows = [list(range(len(test)))[part] for part in chunks(len(test), args.batch)]
        for there, features in stream(net, ProbeImages(test, args.size), rows, **how):
            kept.append(there)
            yield there, features

    scores = linear_scores(crops, train.targets, whole, single=train.single, **options)
    return summarise(scores, test.only(torch.cat(kept).tolist()))


def run_svm(
    net: FrozenResNet, sets: tuple[ProbeSet, ProbeSet], args: argparse.Namespace
) -> Results:
    """linear SVMs on a grid of each stage, VOC07's protocol"""
    train, known, test, unknown = both(net, sets, args, pool=pool_grid)
    results = {}
    for stage in args.stages:
        scores, costs = svm_scores(
            train[stage],
            known.targets,
            test[stage],
            costs=args.costs,
            seed=args.seed,
            progress=True,
        )
        results[stage] = {**summarise(scores, unknown), "costs": costs}
    return results


def run_knn(
    net: FrozenResNet, sets: tuple[ProbeSet, ProbeSet], args: argparse.Namespace
) -> Results:
    """weighted nearest neighbours by cosine"""
    train, known, test, unknown = both(net, sets, args)
    results = {}
    for stage in args.stages:
        for k in args.neighbours:
            scores = knn_scores(
                train[stage], known.targets, test[stage], k=k, temperature=args.temperature
            )
            column = f"k={k}" if len(args.stages) == 1 else f"{stage} k={k}"
            results[column] = summarise(scores, unknown)
    return results


PROBES: dict[
    str, Callable[[FrozenResNet, tuple[ProbeSet, ProbeSet], argparse.Namespace], Results]
] = {
    "linear": run_linear,
    "svm": run_svm,
    "knn": run_knn,
}


def both(
    net: FrozenResNet, sets: tuple[ProbeSet, ProbeSet], args: argparse.Namespace, **options: Any
) -> tuple[dict[str, Tensor], ProbeSet, dict[str, Tensor], ProbeSet]:
    """Features and items of the training set, then of the test set."""
    train, test = (features_of(net, one, args, stages=args.stages, **options) for one in sets)
    return *train, *test


def features_of(
    net: FrozenResNet,
    probe_set: ProbeSet,
    args: argparse.Namespace,
    *,
    progress: bool = True,
    **options: Any,
) -> tuple[dict[str, Tensor], ProbeSet]:
    return extract(
        net,
        probe_set,
        size=args.size,
        batch=args.batch,
        workers=args.workers,
        progress=progress,
        **options,
    )


def load(source: str, like: str | None, args: argparse.Namespace) -> FrozenResNet:
    net = load_resnet(source, allow_unsafe=args.allow_unsafe, like=like, seed=args.seed)
    return net.to(choose_device(args.device))


def table(results: Mapping[str, Results]) -> str:
    """Rows of checkpoints; the number is the accuracy or the mAP, in per cent."""
    columns = list(next(iter(results.values())))
    width = max(10, *map(len, results))
    lines = [" " * width + "".join(f"{column:>10}" for column in columns)]
    for label, found in results.items():
        lines.append(f"{label:{width}}" + "".join(f"{headline(found[c]):10.1f}" for c in columns))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Load, probe, print, write."""
    args = parse(argv)
    named = name_checkpoints(args.checkpoints)
    check_sources(named.values())  # before the data, which may take minutes
    if args.probe == "svm":
        require_sklearn()
    catalog.check([args.train_data, args.test_data])
    refuse_overlap(args.train_data, args.test_data, images=args.images)
    options = {"labels": args.labels, "images": args.images}
    train = read_probe_set(args.train_data, **options)
    options["labels"] = train.kind
    sets = train, read_probe_set(args.test_data, classes=train.classes, **options)
    print(f"{len(train)} items of {train.name} and {len(sets[1])} of {sets[1].name}: {train.kind}")
    like = first_architecture(named.values())
    results = {}
    for label, source in named.items():
        print(f"{label}: {source}")
        results[label] = PROBES[args.probe](load(source, like, args), sets, args)
    measure = "accuracy" if train.single else "mAP"
    print(f"\n{args.probe}, {measure} in per cent on {args.test_data}\n{table(results)}")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{args.probe}.json"
    left = ("probe", "checkpoints", "out", "device", "allow_unsafe", "workers")
    settings = {key: value for key, value in vars(args).items() if key not in left}
    told = {label: {"source": named[label], "results": found} for label, found in results.items()}
    content = {"probe": args.probe, "kind": train.kind, "settings": settings, "checkpoints": told}
    write_json(path, content)
    print(f"wrote {path}")


if __name__ == "__main__":
    run_tool(main)
