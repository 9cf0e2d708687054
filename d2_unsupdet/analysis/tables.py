"""Pieces of the report's tables: cells, names that may break, times, lists of names and values."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from d2_unsupdet.analysis.curves import key_line
from d2_unsupdet.analysis.page_names import breakable
from d2_unsupdet.analysis.runs import Run, config_value, flatten


def sortable(label: str, head: Sequence[str], rows: Sequence[str], texts: Sequence[str]) -> str:
    """A table that a script makes sortable; columns of `texts` are words, not numbers."""
    cells = ""
    for name in head:
        kind = ' class="text"' if name in texts else ""
        cells += f'<th scope="col"{kind}>{escape(name)}</th>'
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="sortable"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def row_head(name: str, number: int, more: str = "", *, link: str = "") -> str:
    """The first cell of a row: a piece of the line in the charts, and the name."""
    text = breakable(name)
    text = f'<a href="#{link}">{text}</a>' if link else text
    return (
        f'<th scope="row" data-value="{escape(name)}"><div class="who" data-s="{number}">'
        f"{key_line(number)}<div>{text}{more}</div></div></th>"
    )


def text_cell(value: str, whole: str = "") -> str:
    """Words, to the left; the pointer shows what `whole` has more."""
    more = f' title="{escape(whole)}"' if whole not in ("", value) else ""
    return f'<td class="text" data-value="{escape(value)}"{more}>{breakable(value)}</td>'


def number_cell(value: float | None, shown: str | None = None) -> str:
    """A number, or a dash where there is none."""
    if value is None:
        return '<td data-value="">–</td>'
    return f'<td data-value="{value!r}">{shown or short(value)}</td>'


def short(value: float) -> str:
    """Three digits, with a minus sign that is as wide as a plus."""
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


def definitions(entries: dict[str, Any]) -> str:
    """Names and values as a list; nested ones joined with dots."""
    items = "".join(
        f"<dt>{escape(str(k))}</dt><dd>{escape(plain(v))}</dd>"
        for k, v in flatten(entries, separator=".").items()
    )
    return f"<dl>{items}</dl>" if items else ""


def plain(value: Any) -> str:
    """A value in words: no brackets, no quotes."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "; ".join(map(plain, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(one)}" for key, one in value.items()) or "none"
    return "–" if value is None else str(value)


def method(run: Run) -> str:
    """What was run, as the run says it."""
    said = run.summary.get("method") or run.summary.get("model")
    if not said and isinstance(run.settings.get("model"), dict):  # it has not ended yet
        said = str(run.settings["model"].get("_target_", "")).rsplit(".", 1)[-1]
    return str(said or "–")


def data_set(run: Run) -> str:
    """The data set's name, or names."""
    value = run.summary.get("data") or config_value(run, "dataloader.train.dataset.names") or "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def initial_weights(run: Run, names: Mapping[Path, str]) -> str:
    """Where the weights came from: the name of the run that made them if its folder is one of
    `names`, else of its folder if the file has a name that all runs give, else the file."""
    named = run.summary.get("init_checkpoint")
    if not run.summary and isinstance(run.settings.get("train"), dict):
        named = run.settings["train"].get("init_checkpoint")
    if not named:
        return "random" if run.summary or run.settings else "–"
    path = Path(str(named))
    known = names.get(path.parent.resolve()) or names.get(path.resolve())
    if known:
        return known
    ours = path.stem in ("export", "model_final", "model_best")
    return path.parent.name if ours else "/".join(path.parts[-2:])


def duration(seconds: float) -> str:
    """42 s, 3 min 05 s, 2 h 10 min."""
    if not abs(seconds) < 1e12:  # a damaged log, and NaN
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: int) -> str:
    """Bytes as 812 B, 14.6 MB, 1.2 GB."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count} B"
