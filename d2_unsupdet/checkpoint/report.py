"""What loading did, for people: one line for each part of the model, and the shares."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoadReport:
    """The fate of every tensor; BatchNorm's step counters are left out of all counts.

    Args:
        source: the file.
        layout: the format found, or "same names".
        matched: model name -> number of values, taken from the file.
        new: model name -> number of values, left at the initial values.
        unused: name in the file -> number of values, without a place in the model.
        dropped: name -> reason (not part of what was asked for, or another shape).
        model_values: number of values in the model.
        source_values: number of values in the file, without what the layout drops.
        classes: class head -> which of its rows were taken.
    """

    source: str
    layout: str
    matched: dict[str, int]
    new: dict[str, int]
    unused: dict[str, int]
    dropped: dict[str, str]
    model_values: int
    source_values: int
    classes: dict[str, str] = field(default_factory=dict)

    @property
    def model_share(self) -> float:
        """Share of the model's values that come from the file."""
        return sum(self.matched.values()) / max(self.model_values, 1)

    @property
    def source_share(self) -> float:
        """Share of the file's values that the model took."""
        return sum(self.matched.values()) / max(self.source_values, 1)

    @property
    def full_coverage(self) -> bool:
        """Whether every tensor of the file was used."""
        return not self.unused and sum(self.matched.values()) == self.source_values

    def __str__(self) -> str:
        share = "full coverage" if self.full_coverage else f"{self.source_share:.1%} of the file"
        counts = f"{len(self.matched)} tensors, {share}, {self.model_share:.1%} of the model"
        lines = [f"Loaded {self.source} ({self.layout}): {counts}"]
        lines += _rows("loaded", self.matched)
        lines += _rows("new", self.new)
        lines += _rows("unused", self.unused)
        for reason, count in Counter(self.dropped.values()).most_common():
            lines.append(f"  dropped  {count:4} tensors: {reason}")
        for said, count in Counter(self.classes.values()).most_common():
            lines.append(f"  classes  {count:4} tensors: {said}")
        return "\n".join(lines)


def _rows(what: str, sizes: dict[str, int]) -> list[str]:
    groups: dict[str, list[int]] = defaultdict(list)
    for name, size in sizes.items():
        groups[_group(name)].append(size)
    return [
        f"  {what:8} {len(group):4} tensors {_human(sum(group)):>7}  {prefix}"
        for prefix, group in groups.items()
    ]


def _group(name: str) -> str:
    """Two levels are what a reader can place: `backbone.bottom_up`, `roi_heads.res5`."""
    parts = name.split(".")
    return ".".join(parts[: min(2, max(len(parts) - 1, 1))])


def _human(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return str(count)
