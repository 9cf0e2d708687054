"""Spatial sensitivity of the backbones that came out."""

from collections.abc import Sequence

from .runs import RANDOM, Run
from .work import Benchmark


def measure_slopes(
    benchmark: Benchmark, chains: Sequence[Sequence[Run]], *, images: int, side: int
) -> None:
    """Spatial sensitivity of every finished backbone: of res4, on objects of toy_val, by IoU.

    A random backbone takes the architecture of a pretrained one, so it needs one to be there.
    """
    from d2_unsupdet.analysis.samples import read_samples
    from d2_unsupdet.analysis.sensitivity import sensitivity
    from d2_unsupdet.checkpoint.backbone import load_resnet

    sources = {}
    for chain in chains:
        first = chain[0]
        if first.kind == "pretrain" and benchmark.weights(first).exists():
            sources[f"slope-{first.key()}"] = (first, str(benchmark.weights(first)), 0)
    some = next(iter(sources.values()), None)
    for chain in chains:
        if chain[0].method == RANDOM and some is not None:
            seed = chain[0].seed
            key = f"slope-random-seed{seed}-{some[0].budget}"
            sources[key] = (chain[0], f"{RANDOM}:{some[1]}", seed)
    todo = {key: found for key, found in sources.items() if key not in benchmark.ledger.runs}
    samples = read_samples("toy_val", images, seed=0, boxes=True) if todo else []
    for key, (run, source, seed) in todo.items():
        found = sensitivity(load_resnet(source, seed=seed), samples, level="res4", side=side)
        rate = run.learning_rate if run.kind == "pretrain" else None
        about = {"method": run.method, "seed": run.seed, "budget": run.budget, "lr": rate}
        benchmark.ledger.add(key, {"kind": "slope", **about, "slope": found.slope})
