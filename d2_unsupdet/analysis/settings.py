"""Runs of one setting: their configs agree in all but the seed, so that several make a band.

What surprises: weights of a pretraining count as its config and the file's name, not as its bytes,
so that seed 1 of a finetuning goes with seed 0 although each began with the pretraining of its own
seed.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2_unsupdet.analysis.page_names import last_parts, short_data
from d2_unsupdet.analysis.runs import Run, config_value, flatten, read_settings
from d2_unsupdet.analysis.tables import plain
from d2_unsupdet.errors import UserError, nearest

_SEED = re.compile(r"(?<![a-z0-9])(seed[-_=]?|s)\d+(?![a-z0-9])", re.I)
_HASH = re.compile(r"[-_](?=\d*[a-f])[0-9a-f]{8,}$")  # digits alone are a date or a step
# What only watches a run or says where it goes; a resumed run may change it and end in equal bits.
_APART = re.compile(
    r"train\.(seed|output_dir|report|pictures|writers|log_period|recipe_length)$"
    r"|train\.(checkpointer|knn_probe)\.|dataloader\.\w+\.(seed|num_workers)$"
)
_DEPTH = 4  # weights of weights of weights
_CONTEXT, _LONG = 40, 100  # letters of a value, where fewer do not tell it from another
_SHOWN, _ROW = 14, 8  # rows of differences in all, and of one section before it becomes one row


@dataclass
class Setting:
    """Runs that differ by seed only; `number` picks its colour and dashes in every chart."""

    name: str
    runs: list[Run]
    number: int
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """That of its runs."""
        return self.runs[0].kind

    @property
    def counted(self) -> list[Run]:
        """The runs whose scores count: of those that have any, the finished ones if there are."""
        scored = [run for run in self.runs if run.scores]
        return [run for run in scored if run.state == "finished"] or scored

    def scores(self, name: str) -> list[float]:
        """The final value of a score in each run that counts and has it."""
        return [run.scores[name] for run in self.counted if name in run.scores]

    def mean(self, name: str) -> float | None:
        """Over the runs that have the score."""
        values = self.scores(name)
        return sum(values) / len(values) if values else None

    def paper(self, name: str) -> float | None:
        """What a paper prints for it."""
        found = [run.paper_values[name] for run in self.runs if name in run.paper_values]
        return found[0] if found else None


def group_settings(runs: Sequence[Run], labels: Mapping[str, str] | None = None) -> list[Setting]:
    """Settings in the order of their first runs.

    Args:
        runs: in any order.
        labels: name of a run -> name of its setting, where that was chosen by hand.
    """
    labels = labels or {}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = labels.get(run.name) or fingerprint(run) or f"alone: {run.name}"
        groups.setdefault(key, []).append(run)
    settings = []
    for number, (key, own) in enumerate(groups.items()):
        chosen = key if own[0].name in labels else None
        name = chosen or (own[0].name if len(own) == 1 else without_seed(own[0].name))
        settings.append(Setting(name, own, number, _masked(own[0])))
    _tell_apart(settings)
    return settings


def find_setting(settings: Sequence[Setting], wanted: str | None) -> Setting | None:
    """By the setting's name, or a run's name or path; an unknown one names the nearest."""
    if wanted is None:
        return None
    for setting in settings:
        if wanted == setting.name or any(_is_called(run, wanted) for run in setting.runs):
            return setting
    names = [setting.name for setting in settings]
    names += [run.name for s in settings for run in s.runs if run.name not in names]
    hint = nearest(wanted, names) or f" Use one of {', '.join(names)}."
    raise UserError(f"The baseline '{wanted}' is not one of the runs.{hint}")


def fingerprint(run: Run) -> str | None:
    """Equal for runs of one setting; None without a config that can be read."""
    if not run.settings:
        return None
    return _digest(run.settings, _DEPTH)


def seed_of(run: Run) -> int | None:
    """The seed, if the run tells."""
    for value in (config_value(run, "train.seed"), run.summary.get("seed")):
        if isinstance(value, int):
            return value
    return None


def without_seed(text: str) -> str:
    """A run's name without its seed: "moco_s0" and "moco-seed0-1f3a99c0" become "moco"."""
    bare = _HASH.sub("", text)
    bare = re.sub(r"[-_ .]{2,}", lambda found: found.group()[0], _SEED.sub("", bare))
    return bare.strip("-_ ./") or text


def differences(settings: Sequence[Setting]) -> dict[str, list[str]]:
    """Keys of the configs in which settings differ -> the value of each, in a few words.

    A section with many such keys is one row with what the section builds, as another model has
    hundreds of other keys.
    """
    keys = sorted({key for setting in settings for key in setting.values})
    apart = [key for key in keys if len({_whole(s.values.get(key)) for s in settings}) > 1]
    by_section: dict[str, list[str]] = {}
    for key in apart:
        by_section.setdefault(key.split(".")[0], []).append(key)
    rows: dict[str, list[str]] = {}
    for section, own in by_section.items():
        if len(own) <= _ROW or section == "train":
            rows |= {key: _told([s.values.get(key) for s in settings]) for key in own}
        else:
            rows[section] = [_built(s, section) for s in settings]
    seen: set[tuple[str, ...]] = set()
    ordered = sorted(rows.items(), key=lambda row: not row[0].startswith("train"))
    told = {}
    for key, values in ordered:  # a key that says the same again, such as a rate in two places
        if tuple(values) not in seen:
            seen.add(tuple(values))
            told[key] = values
    return dict(list(told.items())[:_SHOWN])


def repeated(settings: Iterable[Setting]) -> list[str]:
    """A sentence for each pair of runs of one setting and one seed."""
    sentences = []
    for setting in settings:
        seen: dict[int, str] = {}
        for run in setting.runs:
            seed = seed_of(run)
            if seed is not None and seed in seen:
                sentences.append(
                    f"{seen[seed]} and {run.name} are of one setting and seed; both are counted."
                )
            elif seed is not None:
                seen[seed] = run.name
    return sentences


def _is_called(run: Run, wanted: str) -> bool:
    return wanted in (run.name, str(run.path)) or Path(wanted).resolve() == run.path.resolve()


def _masked(run: Run) -> dict[str, Any]:
    return _without_seeds(run.settings)


def _without_seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    """The flat config without what a seed changes."""
    flat = flatten(dict(config), separator=".")
    output = str(flat.get("train.output_dir") or "\0")
    masked = {}
    for key, value in flat.items():
        if _APART.match(key):
            continue
        if isinstance(value, str):
            value = value.replace(output, "<run>")
            if key.endswith("subset"):
                value = re.sub(r"@seed\d+", "@seed*", value)
            elif key.endswith(("checkpoint", "path", "start")):
                value = "/".join(map(without_seed, value.split("/")))
        masked[key] = value
    return masked


def _digest(config: Mapping[str, Any], depth: int) -> str:
    masked = _without_seeds(config)
    train = config.get("train")
    weights = train.get("init_checkpoint") if isinstance(train, dict) else None
    if isinstance(weights, str) and weights and depth:
        path = Path(weights)
        folder = path if os.path.isdir(path) else path.parent
        made_by = read_settings(folder / "config.yaml")
        if made_by:
            # Its files are different weights: of step 100, of the best score, of the end.
            file = "" if folder == path else _SEED.sub("", path.name)
            masked["train.init_checkpoint"] = [_digest(made_by, depth - 1), file]
    text = json.dumps(masked, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _tell_apart(settings: Sequence[Setting]) -> None:
    """Settings of one name get what differs between them into it."""
    by_name: dict[str, list[Setting]] = {}
    for setting in settings:
        by_name.setdefault(setting.name, []).append(setting)
    for same in (group for group in by_name.values() if len(group) > 1):
        rows = list(differences(same).items())[:2]
        for number, setting in enumerate(same):
            told = [f"{key.rsplit('.', 1)[-1]} {values[number]}" for key, values in rows]
            setting.name += f" ({', '.join(told)})" if told else ""
    taken: dict[str, int] = {}
    for setting in settings:
        taken[setting.name] = count = taken.get(setting.name, 0) + 1
        setting.name += f" ({count})" if count > 1 else ""


def _told(values: Sequence[Any]) -> list[str]:
    """Each in a few words; where those would be the same for different values, from where these
    begin to differ."""
    whole = [_whole(value) for value in values]
    alike: dict[str, set[str]] = {}
    for text in whole:
        alike.setdefault(_short(text), set()).add(text)
    told: dict[str, str] = {}
    for short, texts in alike.items():
        told |= _rests(sorted(texts)) if len(texts) > 1 else dict.fromkeys(texts, short)
    return [told[text] for text in whole]


def _rests(texts: Sequence[str]) -> dict[str, str]:
    """Different texts, each from a little before the place where they part."""
    start = 0
    if max(map(len, texts)) > _LONG:
        same = os.path.commonprefix(list(texts))  # its last words say what differs: "max_size 128"
        start = max(len(re.sub(r"[^/,;]*$", "", same)), len(same) - _CONTEXT, 0)
    rests = {text: f"…{text[start:]}" if start else text for text in texts}
    return {
        text: rest if len(rest) <= _LONG else f"{rest[: _LONG - 1]}…"
        for text, rest in rests.items()
    }


def _whole(value: Any) -> str:
    if value is None or value == "":
        return "–"
    return f"{value:g}" if isinstance(value, float) else plain(value)


def _short(text: str) -> str:
    if "/" in text and not text.startswith("<run>"):
        named = short_data(text)
        text = last_parts(text) if named == text else named
    return text if len(text) <= 48 else text[:47] + "…"


def _built(setting: Setting, section: str) -> str:
    target = setting.values.get(f"{section}._target_") or setting.values.get(
        f"{section}.train.mapper._target_"
    )
    return str(target).rsplit(".", 1)[-1] if target else "another one"
