"""The report's last tab: in what settings differ, and each run's command, files and config."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from d2_unsupdet.analysis import tables
from d2_unsupdet.analysis.overview import progress
from d2_unsupdet.analysis.page_names import breakable
from d2_unsupdet.analysis.run_files import RunFile
from d2_unsupdet.analysis.runs import Run, flatten
from d2_unsupdet.analysis.safe_files import is_number
from d2_unsupdet.analysis.scored_on import by_test_set, score_digits
from d2_unsupdet.analysis.scores import digits_of
from d2_unsupdet.analysis.settings import Setting, differences

_KINDS = {"finetune": "finetuning", "pretrain": "pretraining", "run": "training"}
_WORDS = {
    "test": "test data",
    "iterations": "steps",
    "seconds": "time",
    "init_checkpoint": "starting weights",
    "init_coverage": "share of them used",
    "images": "training images",
    "state_sha256": "final state, SHA-256",
}
_IN_TABLES = ("result", "exports", "classes")  # keys that stand elsewhere on the page


def run_details(settings: Sequence[Setting], folder: Path | None) -> str:
    """Everything about each run, folded where there are several.

    Args:
        settings: of the runs.
        folder: where the page will lie, which its links start from; None makes no links.
    """
    parts, number = [_differences(settings)], 0
    alone = sum(len(setting.runs) for setting in settings) == 1
    digits = {id(s): score_digits(own) for own in by_test_set(settings).values() for s in own}
    for setting in settings:
        shown: str | None = None
        for run in setting.runs:
            number += 1
            inner = _inner(run, folder, digits.get(id(setting)))
            inner += _config(run, setting.runs[0], shown)
            shown = shown or f"run-{number}"
            parts.append(
                f'<details class="run" id="run-{number}"{" open" if alone else ""}><summary>'
                f"<span>{breakable(run.name)}</span> "
                f'<small class="dim">{escape(progress(run))}</small></summary>{inner}</details>'
            )
    return "".join(parts)


def _differences(settings: Sequence[Setting]) -> str:
    """Tables of one kind of run each: a pretraining and a finetuning differ in everything."""
    parts = []
    for kind in dict.fromkeys(setting.kind for setting in settings):
        own = [setting for setting in settings if setting.kind == kind and setting.values]
        rows = differences(own) if len(own) > 1 else {}
        if rows:
            parts.append(_difference_table(own, rows, kind))
    return "".join(parts)


def _difference_table(settings: Sequence[Setting], rows: dict[str, list[str]], kind: str) -> str:
    head = "".join(f'<th scope="col" class="text">{breakable(key)}</th>' for key in rows)
    lines = []
    for number, setting in enumerate(settings):
        cells = "".join(tables.text_cell(values[number]) for values in rows.values())
        lines.append(f"<tr>{tables.row_head(setting.name, setting.number)}{cells}</tr>")
    title = f"What differs: {_KINDS.get(kind, kind)}"
    return (
        f"<h3>{escape(title)}</h3>"
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(title)}">'
        f'<table class="apart"><thead><tr><th scope="col" class="text">Setting</th>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _inner(run: Run, folder: Path | None, digits: int | None) -> str:
    told: dict[str, object] = {"folder": str(run.path)}
    if run.stopped.get("reason"):
        told["stopped"] = str(run.stopped["reason"])
    for key, value in run.summary.items():
        if key not in _IN_TABLES and value not in (None, {}, [], ""):
            told |= _in_words(key, value)
    parts = [tables.definitions(told)]
    if run.command:
        parts.append(f"<h4>Command</h4><pre class='wrap' tabindex='0'>{escape(run.command)}</pre>")
    if run.files:
        parts.append(_files(run, folder, digits))
    return "".join(parts)


def _in_words(key: str, value: object) -> dict[str, object]:
    """An entry of the summary as a person would put it."""
    if key == "notes" and isinstance(value, dict):
        boxes = value.get("priors")
        rest = {name: note for name, note in value.items() if name != "priors"}
        if not isinstance(boxes, dict):
            return value
        words = {"generation": "boxes to find, generation", "sha256": "boxes to find, SHA-256"}
        return {words.get(name, f"boxes to find, {name}"): v for name, v in boxes.items()} | rest
    if key == "seconds" and is_number(value):
        value = tables.duration(value)
    if key == "init_coverage" and is_number(value):
        value = f"{value:.1%}"
    return {_WORDS.get(key, key): value}


def _files(run: Run, folder: Path | None, digits: int | None) -> str:
    rows = []
    for file in run.files:
        score = ""
        if file.score is not None:
            many = digits_of([file.score]) if digits is None else digits
            score = f": {file.metric} {file.score:.{many}f}"
        state = f' <span class="tag bad">{escape(file.state)}</span>' if file.state else ""
        size = "–" if file.size is None else tables.size(file.size)
        digest = (
            f'<code class="hash" tabindex="0">{escape(file.sha256)}</code>' if file.sha256 else "–"
        )
        rows.append(
            f'<tr><th scope="row" class="text">{_name(file, folder)}{state}'
            f'<small class="dim">{escape(file.role + score)}</small></th><td>{size}</td>'
            f'<td class="text">{digest}</td></tr>'
        )
    return (
        "<h4>Files</h4>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Files of {escape(run.name)}">'
        '<table class="plain files"><thead><tr><th scope="col" class="text">File</th>'
        '<th scope="col">Size</th><th scope="col" class="text">SHA-256</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _name(file: RunFile, folder: Path | None) -> str:
    """A link that works as long as page and runs keep their places to each other."""
    name = escape(file.path.name)
    if folder is None or file.state in ("gone", "elsewhere"):
        return name
    try:
        relative = os.path.relpath(file.path.resolve(), folder.resolve())
    except ValueError:  # another drive
        return name
    address = quote(Path(relative).as_posix().encode("utf-8", "surrogateescape"))
    return f'<a href="./{address}">{name}</a>'


def _config(run: Run, first: Run, shown: str | None) -> str:
    """The whole config of a setting's first run; of the others what differs from it."""
    if not run.config:
        return ""
    if shown is None or not first.config:
        text = f"<pre tabindex='0'>{escape(run.config)}</pre>"
        return f"<details><summary>Configuration</summary>{text}</details>"
    mine, its = (flatten(r.settings, separator=".") for r in (run, first))
    apart = {key: mine.get(key) for key in mine | its if mine.get(key) != its.get(key)}
    link = f'<a href="#{shown}">{escape(first.name)}</a>'
    said = f"<p>As that of {link}{', but for' if apart else ''}</p>{tables.definitions(apart)}"
    return f"<details><summary>Configuration</summary>{said}</details>"
