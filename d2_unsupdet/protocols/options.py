"""What a user may ask of a row, and what is refused before anything runs."""

import os
from dataclasses import dataclass
from pathlib import Path

from d2_unsupdet.errors import UserError
from d2_unsupdet.protocols.rows import STARTS, Row

KINDS = ("pretrain", "finetune")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may ask of a row.

    Args:
        output: folder of everything that is made.
        weights: file of the row's starting weights.
        pretrained: file that takes the place of the pretraining.
        seeds: instead of the row's.
        scale: factor on the length of every training.
        num_gpus: processes a training.
        overrides: `key=value` for every training; after `pretrain:` or `finetune:` for that alone.
    """

    output: Path = Path("output/reproduce")
    weights: str = ""
    pretrained: str = ""
    seeds: tuple[int, ...] = ()
    scale: float = 1.0
    num_gpus: int = 1
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Of the runs; short ones are never taken for whole ones."""
        folder = self.output.resolve()
        return folder if self.scale == 1 else folder / f"scale-{self.scale:g}"

    def of(self, kind: str) -> list[str]:
        """The overrides of one kind of training."""
        found = (_marked(text) for text in self.overrides)
        return [rest for mark, rest in found if mark in ("", kind)]


def _marked(text: str) -> tuple[str, str]:
    """ "finetune:a=b" -> ("finetune", "a=b"); "a=b" is for all trainings."""
    mark, colon, rest = text.partition(":")
    return (mark, rest) if colon and mark in KINDS else ("", text)


def check(row: Row, options: Options) -> None:
    """Refuse what cannot be asked of this row."""
    if row.cited:
        raise UserError(f"'{row.id}' is a number that we only cite: {row.cited}.")
    if not options.scale > 0:
        raise UserError(f"--scale={options.scale} is not above 0; write 0.01 for a hundredth.")
    if options.pretrained and not row.pretrain:
        raise UserError(f"'{row.id}' has no pretraining that --pretrained could stand for.")
    if options.weights and row.start == "random":
        raise UserError(
            f"'{row.id}' begins with random weights, so --weights={options.weights} would make it "
            "another row; --pretrained takes the place of a pretraining."
        )


def check_use(rows: list[Row], options: Options) -> None:
    """Refuse what no training of these rows would read, instead of leaving it out in silence."""
    pretrains = any(row.pretrain for row in rows) and not options.pretrained
    there = {"pretrain": pretrains, "finetune": any(row.finetune for row in rows)}
    name = f"'{rows[0].id}' has" if len(rows) == 1 else "These rows have"
    for text in options.overrides:
        mark, _ = _marked(text)
        if not (there[mark] if mark else any(there.values())):
            what = {"": "training", "pretrain": "pretraining", "finetune": "finetuning"}[mark]
            why = " beside --pretrained" if mark == "pretrain" and options.pretrained else ""
            raise UserError(f"{name} no {what}{why} that '{text}' could change; leave it out.")
    if options.seeds and not there["finetune"]:
        raise UserError(f"{name} no finetuning that --seeds could be of; leave it out.")
    if options.scale != 1 and not any(there.values()):
        raise UserError(f"{name} no training that --scale could shorten; leave it out.")


def starting_file(start: str, options: Options) -> str:
    """`--weights`, or the file that $D2_UNSUPDET_WEIGHTS (./weights) holds under that name."""
    if start == "random":
        return ""
    if options.weights:
        return options.weights
    folder = Path(os.environ.get("D2_UNSUPDET_WEIGHTS") or "weights").expanduser()
    found = sorted(folder.glob(f"{start}.*"))
    return str(found[0].resolve() if found else folder / f"{start}.pth")


def first_file(row: Row, options: Options) -> tuple[str, str]:
    """The file that the first command reads, and what it is; ("", "") without."""
    if options.pretrained:
        return options.pretrained, "what was pretrained"
    return starting_file(row.start, options), STARTS[row.start]


def check_start(row: Row, options: Options) -> None:
    """Say what file is missing before anything is trained."""
    file, what = first_file(row, options)
    if file and not Path(file).is_file():
        raise UserError(
            f"'{row.id}' begins with {what}, and there is no '{file}'; give it as --weights FILE, "
            f"or put it into ./weights (or the folder of $D2_UNSUPDET_WEIGHTS) as {row.start}.pth."
        )
