"""The ledger as markdown."""

from collections.abc import Iterable, Sequence
from statistics import mean, stdev
from typing import Any

from .backbones import METHODS, SCALES
from .ledger import Ledger
from .runs import RANDOM


def table(ledger: Ledger) -> str:
    """The finished part as markdown, one table a budget: mean ± standard deviation (seeds)."""
    scores = ledger.entries("finetune")
    blocks = []
    for budget in dict.fromkeys(entry["budget"] for entry in scores):
        own = [entry for entry in scores if entry["budget"] == budget]
        body = _one_table(own, _others(ledger, budget))
        blocks.append(f"{budget}:\n\n{body}\n\nrates: {_rates(own)}, or --lr")
    return "\n\n".join(blocks) or "No finetuning is finished yet."


def _rates(scores: list[dict[str, Any]]) -> str:
    """Old entries do not say; they are of the quickstart."""
    found = (entry.get("rates", SCALES["quickstart"].rates) for entry in scores)
    return "; ".join(dict.fromkeys(found))


def _others(ledger: Ledger, budget: str) -> list[dict[str, Any]]:
    kinds = ("pretrain", "slope")
    return [e for kind in kinds for e in ledger.entries(kind) if e["budget"] == budget]


def _one_table(scores: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    targets = sorted({entry["target"] for entry in scores}, reverse=True)
    head = ["start", "rate"]
    for target in targets:
        head += [f"{target} AP", "AP50", "AP over random"]
    head += ["sensitivity slope", "pretraining s"]
    order = {method: place for place, method in enumerate(METHODS)}
    rows = sorted(
        {(e["method"], e["lr"]) for e in scores}, key=lambda row: (order[row[0]], row[1] or 0)
    )
    lines = [line(head), line(["---"] * len(head))]
    for method, rate in rows:
        cells = [method, f"{rate:g}" if rate is not None else ""]
        for target in targets:
            own = _by_seed(scores, method, rate, target)
            base = _by_seed(scores, RANDOM, None, target)
            gains = [own[s]["AP"] - base[s]["AP"] for s in own if s in base and method != RANDOM]
            cells.append(spread(r["AP"] for r in own.values()))
            cells.append(spread(r["AP50"] for r in own.values()))
            cells.append(spread(gains, sign="+"))
        mine = [e for e in others if (e["method"], e["lr"]) == (method, rate)]
        cells.append(spread((e["slope"] for e in mine if e["kind"] == "slope"), digits=3))
        whole = [e["seconds"] for e in mine if e["kind"] == "pretrain" and not e["resumed"]]
        cells.append(f"{mean(whole):.0f}" if whole else "")
        lines.append(line(cells))
    return "\n".join(lines)


def _by_seed(
    scores: list[dict[str, Any]], method: str, rate: float | None, target: str
) -> dict[int, dict[str, float]]:
    """Later entries win: a recipe that was changed since."""
    wanted = (method, rate, target)
    return {e["seed"]: e["result"] for e in scores if (e["method"], e["lr"], e["target"]) == wanted}


def spread(values: Iterable[float], *, sign: str = "", digits: int = 1) -> str:
    found = list(values)
    if not found:
        return ""
    text = f"{mean(found):{sign}.{digits}f}"
    if len(found) > 1:
        text += f" ± {stdev(found):.{digits}f}"
    return f"{text} ({len(found)})"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
