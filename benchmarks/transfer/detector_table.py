"""The ledger of whole detectors as markdown, one table a target, and its curves as a picture."""

from pathlib import Path
from typing import Any

import numpy as np

from d2_unsupdet.analysis.convergence import Convergence, draw

from .detectors import GROUPS, METHODS
from .ledger import Ledger
from .runs import FOUND, RANDOM
from .table import line, spread

Entry = dict[str, Any]
HEAD = ["start", "rates", "AP", "AP50", "AP over scratch", "steps to scratch's AP"]
HEAD += ["heads only: AP", "AR@10", "AR@100", "as it is: AP", "AR@10", "AR@100", "pretraining s"]


def table(ledger: Ledger) -> str:
    """The finished part: mean ± standard deviation (seeds)."""
    everything = [entry for kind in ("finetune", "heads", FOUND) for entry in ledger.entries(kind)]
    blocks = []
    for budget, target in dict.fromkeys((e["budget"], e["target"]) for e in everything):
        own = [e for e in everything if (e["budget"], e["target"]) == (budget, target)]
        group = next(g for g, targets in GROUPS.items() if target in targets)
        before = [
            e for e in ledger.entries("pretrain") if (e["budget"], e["target"]) == (budget, group)
        ]
        blocks.append(
            f"{target}: {budget}\n\n{_one_table(own, before)}\n\nrates: {own[0]['rates']}"
        )
    return "\n\n".join(blocks) or "Nothing is finished yet."


def _one_table(own: list[Entry], before: list[Entry]) -> str:
    base = _by_seed(own, "finetune", RANDOM)
    order = {method: place for place, method in enumerate(METHODS)}
    lines = [line(HEAD), line(["---"] * len(HEAD))]
    for method in sorted({e["method"] for e in own}, key=order.__getitem__):
        tuned, heads, found = (_by_seed(own, k, method) for k in ("finetune", "heads", FOUND))
        paired = [seed for seed in tuned if seed in base and method != RANDOM]
        cells = ["scratch" if method == RANDOM else method, _rates(tuned)]
        cells += [spread(e["result"][key] for e in tuned.values()) for key in ("AP", "AP50")]
        gains = (tuned[s]["result"]["AP"] - base[s]["result"]["AP"] for s in paired)
        cells += [spread(gains, sign="+"), _sooner(tuned, base)]
        for scores in (heads, found):
            for key in ("AP", "AR@10", "AR@100"):
                cells.append(spread(e["result"][key] for e in scores.values()))
        seconds = [e["seconds"] for e in before if e["method"] == method and not e["resumed"]]
        cells.append(f"{sum(seconds) / len(seconds):.0f}" if seconds else "")
        lines.append(line(cells))
    return "\n".join(lines)


def _by_seed(entries: list[Entry], kind: str, method: str) -> dict[int, Entry]:
    """Later entries win: a recipe that was changed since."""
    return {e["seed"]: e for e in entries if (e["kind"], e["method"]) == (kind, method)}


def _rates(tuned: dict[int, Entry]) -> str:
    """Of pretraining and finetuning."""
    pairs = {(e["lr"], e["own_lr"]) for e in tuned.values()}
    return ", ".join(" / ".join(f"{r:g}" for r in pair if r is not None) for pair in sorted(pairs))


def _sooner(tuned: dict[int, Entry], base: dict[int, Entry]) -> str:
    """Steps at which a seed's curve first has what scratch of that seed has at its end."""
    reached = []
    for seed, entry in tuned.items():
        if seed not in base:
            continue
        goal = base[seed]["result"]["AP"]
        steps = [step for step, score in entry["curve"] if score >= goal - 1e-3]
        reached.append(str(min(steps)) if steps else f"> {entry['steps']}")
    return ", ".join(reached)


def draw_curves(ledger: Ledger, path: Path) -> None:
    """AP against steps of finetuning, a picture a target beside each other's names."""
    for target in dict.fromkeys(e["target"] for e in ledger.entries("finetune")):
        curves: dict[str, Convergence] = {}
        for method in METHODS:
            runs = _by_seed(
                [e for e in ledger.entries("finetune") if e["target"] == target], "finetune", method
            )
            found = [dict(map(tuple, e["curve"])) for e in runs.values()]
            common = sorted(set.intersection(*map(set, found))) if found else []
            if common:
                values = np.array([[curve[step] for step in common] for curve in found])
                name = "scratch" if method == RANDOM else method
                folders = [e["folder"] for e in runs.values()]
                curves[name] = Convergence(folders, np.array(common, float), values)
        if curves:
            figure = draw(curves, score="bbox/AP", axis="iterations")
            figure.savefig(path.with_name(f"{path.stem}_{target}{path.suffix}"), dpi=110)
