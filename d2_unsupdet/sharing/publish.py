"""A finished run as a folder to give away: weights, config, model card, manifest with hashes.

The folder appears whole or not at all, and only after its weights were read back from it into the
model of its own config.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from d2_unsupdet import __version__
from d2_unsupdet.analysis.runs import Run, read_run
from d2_unsupdet.checkpoint.checkpointer import BEST, FINAL, BrokenCheckpoint, Entry, verify
from d2_unsupdet.checkpoint.convert import parameter_count
from d2_unsupdet.checkpoint.export import write_weights
from d2_unsupdet.checkpoint.files import (
    TEMPORARY,
    atomic_write,
    check_sha256,
    read_weights,
    sha256,
    write_json,
)
from d2_unsupdet.checkpoint.published import (
    CARD,
    CONFIG,
    EXPORT,
    FORMAT,
    MANIFEST,
    MODEL,
    WHOLE,
    model_file,
)
from d2_unsupdet.data import catalog
from d2_unsupdet.engine.build import build_model
from d2_unsupdet.engine.config import dump_config, load_config, to_plain
from d2_unsupdet.errors import UserError
from d2_unsupdet.sharing.card import model_card
from d2_unsupdet.sharing.facts import facts_of

State = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """What was written.

    Args:
        folder: where.
        sha256: of the weights.
        content: `EXPORT` or `WHOLE`.
        paths: `key=value` of places on this machine in its config, which strangers will read.
    """

    folder: Path
    sha256: str
    content: str
    paths: list[str]


def publish(
    run_folder: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    best: bool = False,
    whole: bool = False,
) -> Published:
    """Write the published folder `out` of a finished run, or raise a UserError and write nothing.

    Args:
        run_folder: with config.yaml, summary.json and its last checkpoint.
        out: a new folder.
        name: of the publication; default the run's folder name.
        best: `model_best.pth` instead of the last weights.
        whole: of a pretraining run everything, not only what transfers.
    """
    run_folder, out = Path(run_folder), Path(out)
    run = _finished(run_folder)
    _check_free(out)
    name = name or run.name
    content = EXPORT if run.summary.get("kind") == "pretrain" and not whole else WHOLE
    if content == EXPORT and best:
        raise UserError("--best is of detectors that are scored: a pretext's export has no best.")
    state, entry = (_export(run), None) if content == EXPORT else _checkpoint(run_folder, best=best)
    cfg = load_config(str(run_folder / CONFIG))
    cfg.train.output_dir, cfg.train.init_checkpoint = f"output/{out.resolve().name}", ""
    facts = facts_of(run, cfg, name=name, best=entry)

    temporary = out.with_name(TEMPORARY.format(name=out.name, token=secrets.token_hex(4)))
    try:
        temporary.mkdir(parents=True)
        meta = {"method": facts.method, "data": facts.data, "name": name, "content": content}
        write_weights(temporary / MODEL, state, meta=meta)
        _write_text(temporary / CONFIG, dump_config(cfg))
        digest = sha256(temporary / MODEL)
        card = model_card(
            facts,
            content=content,
            sha256=digest,
            parameters=parameter_count(state),
            folder=out.resolve().name,
        )
        _write_text(temporary / CARD, card)
        files = {file: _entry(temporary / file) for file in (MODEL, CONFIG)}
        told = {"format": FORMAT, "version": 1, "content": content, "made_by": __version__}
        write_json(temporary / MANIFEST, {**told, **_plain(asdict(facts)), "files": files})
        _check_readable(temporary, content)
        os.rename(temporary, out)
    except OSError as error:
        raise UserError(
            f"Cannot write {out}: {error.strerror or error}; nothing is left."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Published(out, digest, content, own_places(cfg))


def own_places(cfg: DictConfig) -> list[str]:
    """`key=value` of everything in the config that names a place on this machine.

    A relative path is one if it leads to something from here or from the data's root; the folder of
    results is everybody's own.
    """
    output = str(cfg.train.output_dir)
    return [
        f"{key}={value}"
        for key, value in _texts(to_plain(cfg))
        if not f"{value}/".startswith(f"{output}/") and any(map(_is_place, _pieces(value)))
    ]


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of nested dicts and lists with its dotted key."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, (dict, list)):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _texts(value, f"{key}.{name}" if key else str(name))


def _is_place(piece: str) -> bool:
    if piece[:1] in ("/", "~"):
        return True
    try:
        return "/" in piece and catalog.locate(piece).exists()
    except OSError:  # far too long for a path
        return False


def _pieces(value: str) -> list[str]:
    """Paths may stand behind a kind or another path, as in `coco:LABELS@IMAGES`."""
    return [piece for part in value.split() for a in part.split("@") for piece in a.split(":")]


def _finished(folder: Path) -> Run:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: name that of a finished run.")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no folder of a run: it holds no {CONFIG}.")
    run = read_run(folder)
    if not {"iterations", "images", "method"} <= run.summary.keys():
        raise UserError(
            f"{folder} is not finished: it holds no readable summary.json; go on with "
            f"python train_net.py --config-file {folder / CONFIG} --resume."
        )
    return run


def _check_free(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty: remove it or choose another folder.")


def _export(run: Run) -> State:
    """What the run exported at its end, as its summary knows it."""
    path = run.path / "export.safetensors"
    entries = run.summary.get("exports")
    known = {Path(str(e["file"])).name: str(e["sha256"]) for e in entries or ()}
    if not path.is_file() or path.name not in known:
        raise UserError(
            f"{run.path} holds no {path.name} that its summary.json knows: run it anew."
        )
    check_sha256(path, known[path.name])
    return read_weights(path).state


def _checkpoint(folder: Path, *, best: bool) -> tuple[State, Entry | None]:
    """The last weights or the best ones, their moving average if the run keeps one."""
    path = folder / (BEST if best else FINAL)
    if not path.is_file():
        hint = "it was never scored" if best else "it is not finished, or the file was removed"
        raise UserError(f"{folder} holds no {path.name}: {hint}.")
    try:
        entry = verify(path)
    except BrokenCheckpoint as error:
        raise UserError(f"{error}; copy the run again.") from None
    if best and entry is None:
        raise UserError(f"{path} has no manifest, so nobody knows which step it is of.")
    return read_weights(path).state, entry if best else None


def _check_readable(folder: Path, content: str) -> None:
    """What a stranger will do first."""
    state = read_weights(model_file(folder)).state
    if content == EXPORT:
        return
    sets = ["train.device=cpu", "train.sync_bn=false"]
    model = build_model(load_config(str(folder / CONFIG), sets))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(
            f"The weights are not of the model of the run's {CONFIG} ({first} ...), which was "
            "changed since: publish an untouched run."
        ) from None


def _entry(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: scores that are not defined are left out."""
    scores = {k: v for k, v in values["scores"].items() if v == v}
    return {**values, "scores": scores}


def _write_text(path: Path, text: str) -> None:
    atomic_write(path, lambda file: file.write(text.encode()))
