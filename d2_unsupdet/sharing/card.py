"""The model card: YAML that the Hugging Face hub reads, then a page for people."""

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from d2_unsupdet.checkpoint.published import CONFIG, EXPORT, MODEL
from d2_unsupdet.sharing.facts import Facts

LIBRARY = "d2_unsupdet"
RECIPES = Path(__file__).resolve().parents[2] / "configs/finetune"
_LICENCE = """## Licence

Not chosen yet. Whoever publishes these weights says here under which terms, and adds `license:` to
the header; the terms of the data and of the starting weights may have a say in it.
"""
_TASKS = {"sem_seg": "image-segmentation", "bbox": "object-detection"}


def model_card(facts: Facts, *, content: str, sha256: str, parameters: int, folder: str) -> str:
    """README.md of a published folder.

    Args:
        facts: of the run.
        content: `EXPORT` or `WHOLE`.
        sha256: of the weights.
        parameters: values in the file.
        folder: name of the published folder.
    """
    rows = {
        "method": facts.method if facts.kind == "pretrain" else "trained with labels",
        "detector": facts.detector or "none: a backbone",
        "holds": _content(facts, content),
        "data": facts.data,
        "schedule": facts.schedule,
        "seed": str(facts.seed),
        "started from": facts.init,
        "parameters": f"{parameters / 1e6:.2f} M",
        f"SHA-256 of {MODEL}": f"`{sha256}`",
        "environment": ", ".join(f"{k} {v}" for k, v in facts.environment.items()) or "unknown",
    }
    table = "".join(f"| {k} | {_cell(v)} |\n" for k, v in rows.items() if v)
    parts = [
        f"---\n{_header(facts)}---\n\n# {_cell(facts.name)}\n",
        f"{_sentence(facts, content)}\n",
        f"| | |\n|---|---|\n{table}",
        _scores(facts),
        _classes(facts),
        _use(facts, content, folder),
        _LICENCE,
    ]
    return "\n".join(part for part in parts if part)


def _header(facts: Facts) -> str:
    kind = "self-supervised" if facts.kind == "pretrain" else "finetuned"
    value: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": _task(facts),
        "tags": sorted({"detectron2", kind, facts.method, facts.detector} - {""}),
    }
    results = _results(facts)
    if results:
        value["model-index"] = [{"name": facts.name, "results": results}]
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _task(facts: Facts) -> str:
    for prefix, task in _TASKS.items():
        if any(name.startswith(prefix) for name in facts.scores):
            return task
    return "object-detection" if facts.detector else "image-feature-extraction"


def _results(facts: Facts) -> list[dict[str, Any]]:
    """In the hub's own form, which shows them beside the page."""
    metrics = [
        {"type": name, "name": name, "value": round(value, 4)}
        for name, value in _finite(facts.scores).items()
    ]
    if not metrics:
        return []
    dataset = {"type": facts.test or "unknown", "name": facts.test or "unknown"}
    return [{"task": {"type": _task(facts)}, "dataset": dataset, "metrics": metrics}]


def _sentence(facts: Facts, content: str) -> str:
    if facts.kind == "finetune":
        return f"{_cell(facts.detector)} trained with labels on {_cell(facts.data)}, by {LIBRARY}."
    what, how = _cell(facts.detector) or "A backbone", _cell(facts.method)
    return f"{what} pretrained without labels by {how} on {_cell(facts.data)}, by {LIBRARY}."


def _content(facts: Facts, content: str) -> str:
    if content == EXPORT:
        return "what transfers to a detector, without the heads of pretraining"
    whole = "the whole model" if facts.kind == "finetune" else "the whole pretext"
    return f"{whole}, heads included"


def _scores(facts: Facts) -> str:
    scores = _finite(facts.scores)
    if not scores:
        return ""
    rows = "".join(f"| {_cell(n)} | {v:.2f} |\n" for n, v in scores.items())
    where = _cell(facts.test) or "its test set"
    return (
        f"## Scores\n\nOn {where}, {_cell(facts.scored)}; one run, seed "
        f"{facts.seed}.\n\n| score | value |\n|---|---|\n{rows}"
    )


def _classes(facts: Facts) -> str:
    if not facts.classes:
        return ""
    listed = ", ".join(f"{i} {_cell(name)}" for i, name in enumerate(facts.classes))
    return f"## Classes\n\n{listed}\n"


def _use(facts: Facts, content: str, folder: str) -> str:
    """Commands that work with this content, for a folder that lies in a clone of the library."""
    where = shlex.quote(folder)
    start = f"train.init_checkpoint={where}"
    recipe = _recipe(facts) if content == EXPORT else f"{where}/{CONFIG}"
    lines = [
        "# train on from it; hub:OWNER/NAME works too where huggingface_hub is installed",
        f"python train_net.py --config-file {recipe} {start}",
    ]
    if content != EXPORT and facts.scores:
        lines += ["# score it", f"python train_net.py --config-file {recipe} --eval-only {start}"]
    if content != EXPORT and facts.detector:
        lines += [
            "# see what it finds in images of yours, as files or in a browser",
            f"python tools/visualize.py {where} --images my_images",
            f"python demo/serve.py {where}",
        ]
    command = "\n".join(lines)
    return (
        f"## Use\n\nThese are weights of {LIBRARY}: clone its repository, install it as its README "
        f"says, put this folder into the clone as `{folder}`, and run there:\n\n"
        f"```bash\n{command}\n```\n"
    )


def _recipe(facts: Facts) -> str:
    """One that such a pretraining is the start of; others of the same detector do as well."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", facts.detector).lower()
    words = words.replace("dndab", "dn_dab")
    if facts.data.startswith("toy"):
        found = [RECIPES / f"toy/{words}.py"]
        fallback = "configs/quickstart/finetune.py"
    else:
        found = sorted(RECIPES.glob(f"coco/{words}_r50_50ep.py")) if words else []
        found += sorted(RECIPES.glob(f"coco/{words}_r50_*.py")) if words else []
        fallback = "configs/finetune/coco/mask_rcnn_r50_fpn_1x.py"
    name = next((path for path in found if path.is_file()), None)
    return str(name.relative_to(RECIPES.parents[1])) if name else fallback


def _finite(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def _cell(text: str) -> str:
    """Names come from files: none may end a table or begin HTML."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return plain.replace("|", "\\|")
