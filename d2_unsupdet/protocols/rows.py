"""Rows of the papers' tables as data: what is trained, from what, and the number that was printed.

`tables/<paper>.yaml` holds a paper each. `recipes` are its pretrainings by name; a row says which
one it is `from` (or a starting weight of `STARTS`), and its table how it is finetuned or probed.
A table with `settings` has each of its rows once for each setting.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from d2_unsupdet.errors import UserError, nearest

ROOT = Path(__file__).resolve().parents[2]  # of the repository, where commands run
TABLES = Path(__file__).parent / "tables"
ORDER = (
    "dupr",
    "dense_siam",
    "siamese_detr",
    "join_det",
    "deta",
    "up_detr",
    "detreg",
    "family",
    "toy",
)
# Starting weights: what they are, and where their makers publish them.
STARTS: Mapping[str, str] = {
    "random": "no file",
    "supervised": "a ResNet-50 with ImageNet labels, torchvision's resnet50-0676ba61.pth",
    "supervised_r18": "a ResNet-18 with ImageNet labels, torchvision's resnet18-f37072fd.pth",
    "supervised_r101": "a ResNet-101 with ImageNet labels, torchvision's resnet101-63fe2227.pth",
    "swav": "SwAV's ResNet-50 of 800 epochs, its repository's swav_800ep_pretrain.pth.tar",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A config and what is changed in it.

    Args:
        config: a file under configs/.
        overrides: `key=value`.
        start: the weights it begins with, of `STARTS`.
        boxes: the source of the boxes that its store must hold first; "" needs none.
    """

    config: str
    overrides: tuple[str, ...] = ()
    start: str = "random"
    boxes: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Args:
        id: `<paper>-<table>[-<setting>]-<row>`, unique.
        setting: in words, "" without.
        start: weights that the first training begins with.
        pretrain, finetune: None where there is none.
        tool: a command of tools/ that scores instead of a finetuning, with `{weights}` and `{out}`.
        seeds: of the finetuning.
        values: metric -> the number as printed; empty where we know none.
        cited: why it cannot be run here; "" where it can.
        note: what a reader must know of this row alone.
        ours: what was run of it by us; "" for nothing.
        printed_by: "paper", or "our run" where the numbers beside which yours stand are ours.
    """

    id: str
    label: str
    paper: str
    table: str
    printed_by: str = "paper"
    setting: str = ""
    start: str = "random"
    pretrain: Recipe | None = None
    finetune: Recipe | None = None
    tool: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    columns: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    cited: str = ""
    note: str = ""
    ours: str = ""

    @property
    def name(self) -> str:
        """The row in words."""
        return ", ".join(filter(None, (self.setting, self.label)))

    @property
    def numbers(self) -> dict[str, float]:
        """The printed numbers without what stands behind ±."""
        return {name: float(text.split("±")[0]) for name, text in self.values.items()}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that share a protocol.

    Args:
        title: with the number in the paper in front where it is known: "Table 2: COCO, DETR".
        source: whose numbers these are.
        columns: metric -> heading.
        note: what a reader must know of all rows.
    """

    id: str
    title: str
    source: str
    columns: Mapping[str, str]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """All tables of one paper."""

    id: str
    name: str
    title: str
    about: str
    tables: tuple[Table, ...]
    link: str = ""


@cache
def papers() -> tuple[Paper, ...]:
    """All of them, in the order of the page."""
    return tuple(read_paper(TABLES / f"{name}.yaml") for name in ORDER)


def rows() -> Iterator[Row]:
    """Every row of every paper."""
    return (row for paper in papers() for table in paper.tables for row in table.rows)


def select(pattern: str) -> list[Row]:
    """The row of this id, or all whose id fits a shell pattern."""
    found = [row for row in rows() if fnmatchcase(row.id, pattern)]
    if not found:
        near = nearest(pattern, (row.id for row in rows()))
        raise UserError(f"There is no row '{pattern}'.{near} --list shows all of them.")
    return found


def read_paper(path: Path) -> Paper:
    """One file; our own mistakes in it are found by the tests."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipes = {name: _recipe(node) for name, node in content.get("recipes", {}).items()}
    key = path.stem.replace("_", "")
    shared = {"paper": content["paper"], "printed_by": content.get("numbers", "paper")}
    tables = tuple(_table(node, key, shared, recipes) for node in content["tables"])
    return Paper(
        id=key,
        name=content["paper"],
        title=content["title"],
        about=content["about"],
        tables=tables,
        link=content.get("link", ""),
    )


def _table(
    node: dict[str, Any], key: str, paper: Mapping[str, str], recipes: Mapping[str, Recipe]
) -> Table:
    found = []
    title = ": ".join(filter(None, (node.get("number", ""), node["title"])))
    for setting, shared in node.get("settings", {"": {}}).items():
        base = {k: node[k] for k in ("finetune", "tool", "seeds") if k in node} | shared
        for line in node["rows"]:
            parts = [key, node["id"], *([str(setting)] if setting else []), str(line["id"])]
            printed = line.get("paper", "")
            if isinstance(printed, dict):
                printed = printed.get(setting, "")
            row = _row({**base, **line, "paper": printed}, tuple(node["columns"]), recipes)
            found.append(
                replace(
                    row,
                    id="-".join(parts),
                    table=title,
                    setting=shared.get("label", ""),
                    paper=paper["paper"],
                    printed_by=paper["printed_by"],
                )
            )
    return Table(
        id=node["id"],
        title=title,
        source=node["source"],
        columns=node["columns"],
        rows=tuple(found),
        note=node.get("note", ""),
    )


def _row(line: dict[str, Any], columns: tuple[str, ...], recipes: Mapping[str, Recipe]) -> Row:
    begin = line.get("from", "random")
    pretrain = recipes.get(begin)
    finetune = _recipe(line["finetune"]) if line.get("finetune") and not line.get("cited") else None
    if finetune:
        more = tuple(line.get("overrides", ()))
        finetune = replace(finetune, overrides=finetune.overrides + more)
    printed = str(line["paper"]).split()
    values = dict(zip(columns, printed, strict=False))
    return Row(
        id="",
        label=line["label"],
        paper="",
        table="",
        start=pretrain.start if pretrain else begin,
        pretrain=pretrain,
        finetune=finetune,
        tool=tuple(line.get("tool", ())),
        seeds=tuple(line.get("seeds", (0,))),
        columns=columns,
        values={name: text for name, text in values.items() if text != "-"},
        cited=line.get("cited", ""),
        note=line.get("note", ""),
        ours=line.get("ours", ""),
    )


def _recipe(node: str | dict[str, Any]) -> Recipe:
    if isinstance(node, str):
        return Recipe(config=node)
    return Recipe(**{**node, "overrides": tuple(node.get("overrides", ()))})
