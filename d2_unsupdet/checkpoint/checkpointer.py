"""Checkpoints of a run: a kill or a full disk at any byte costs at most one period.

File names are Detectron2's (`model_0000099.pth`, `model_final.pth`, `last_checkpoint`), so its
tools read the folder. Beside each file stands a manifest, `<file>.json`, with size and SHA-256. It
is written just before its file takes its place and keeps the entry it replaces: it is never wrong.
"""

import json
import logging
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2_unsupdet.checkpoint.files import Digest, atomic_write, read_weights, sha256, write_json
from d2_unsupdet.checkpoint.published import is_published, whole_model
from d2_unsupdet.checkpoint.stopped import no_checkpoint
from d2_unsupdet.errors import UserError

log = logging.getLogger(__name__)

TAG, FINAL, BEST = "last_checkpoint", "model_final.pth", "model_best.pth"
_NUMBERED = re.compile(r"model_(\d{7,})\.pth")
_STALE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@dataclass(frozen=True)
class Entry:
    """What a manifest says about one version of a file."""

    size: int
    sha256: str
    iteration: int
    score: float | None = None
    metric: str | None = None


class BrokenCheckpoint(Exception):
    """A file that is not what its manifest says, or does not load."""


class RunCheckpointer:
    """Saves and finds the checkpoints of one run; only the main process may save.

    Example:
        >>> checkpointer = RunCheckpointer("output/run", keep_last=3)
        >>> checkpointer.save({"model": model.state_dict()}, iteration=99)
        >>> state = checkpointer.latest()  # None in a fresh folder

    Args:
        folder: the run's output folder, made when it is missing.
        keep_last: how many numbered checkpoints stay; 0 keeps all.
        keep_best: whether `save_best` writes anything.
    """

    def __init__(self, folder: str | Path, *, keep_last: int = 3, keep_best: bool = True) -> None:
        self.folder = Path(folder)
        self.keep_last = keep_last
        self.keep_best = keep_best
        self._prepared = False
        self._best: Entry | None = None
        self._best_known = False

    def save(self, state: Mapping[str, Any], iteration: int, *, final: bool = False) -> Path:
        """Write the state after step `iteration` (counted from 0), move the tag, prune."""
        self._prepare()
        path = self.folder / (FINAL if final else f"model_{iteration:07d}.pth")
        self._write(path, {**state, "iteration": iteration}, Entry(0, "", iteration))
        atomic_write(self.folder / TAG, lambda file: file.write(path.name.encode()))
        self._prune(iteration)
        return path

    def save_best(
        self,
        state: Mapping[str, Any],
        score: float,
        *,
        iteration: int,
        metric: str | None = None,
    ) -> bool:
        """Write `model_best.pth` if `score` is higher than every one before; never move the tag."""
        best = self.best
        if best is not None and best.metric != metric:
            log.warning(
                "The best checkpoint so far was by %s, now it is by %s.", best.metric, metric
            )
            best = None
        beaten = best is not None and best.score is not None and best.score >= score
        if not self.keep_best or math.isnan(score) or beaten:
            return False
        self._prepare()
        entry = Entry(0, "", iteration, float(score), metric)
        self._best = self._write(self.folder / BEST, {**state, "iteration": iteration}, entry)
        return True

    @property
    def best(self) -> Entry | None:
        """Score, metric and iteration of `model_best.pth`, also after a resume."""
        if not self._best_known:
            self._best_known = True
            path = self.folder / BEST
            if path.exists():
                try:
                    self._best = verify(path)
                except BrokenCheckpoint as error:
                    log.warning("BROKEN CHECKPOINT: %s; the best score starts anew.", error)
        return self._best

    def latest(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None where no checkpoint was ever written."""
        candidates = self._candidates()
        for path in candidates:
            try:
                verify(path)
                state = _load(path)
            except BrokenCheckpoint as error:
                log.warning("BROKEN CHECKPOINT: %s; trying the one before it.", error)
                continue
            log.info("reading %s", path)  # the callers know what for, and count its steps
            return state
        if candidates:
            raise UserError(
                f"None of the {len(candidates)} checkpoints in {self.folder} is whole; remove them "
                "or start without --resume."
            )
        return None

    def _candidates(self) -> list[Path]:
        """The tagged file, then the ones before it from new to old, then any later ones."""
        paths = [p for p in self.folder.glob("model_*.pth") if _NUMBERED.fullmatch(p.name)]
        paths += [p for p in [self.folder / FINAL] if p.exists()]
        paths.sort(key=_iteration, reverse=True)
        if not paths:
            return []
        tagged = self._tagged()
        if tagged not in paths:
            log.warning(
                "BROKEN CHECKPOINT: the tag %s names no checkpoint; trying the newest file, %s.",
                self.folder / TAG,
                paths[0].name,
            )
            return paths
        # a file after the tag was left by a save that was cut short, or by a user who went back
        later = [p for p in paths if p != tagged and _iteration(p) > _iteration(tagged)]
        return [tagged, *(p for p in paths if p != tagged and p not in later), *later]

    def _tagged(self) -> Path:
        try:
            name = (self.folder / TAG).read_bytes().decode(errors="replace").strip()
        except OSError:
            name = ""
        return self.folder / Path(name.replace("\0", "")).name

    def _write(self, path: Path, state: dict[str, Any], entry: Entry) -> Entry:
        plain = plain_state(state)
        manifest = _manifest(path)

        def announce(digest: Digest) -> None:
            nonlocal entry
            entry = replace(entry, size=digest.size, sha256=digest.sha256)
            previous = _matching(path, _entries(manifest)) if path.exists() else None
            value = {"file": path.name, **asdict(entry)}
            if previous is not None:
                value["replaces"] = asdict(previous)
            write_json(manifest, value)

        atomic_write(path, lambda file: torch.save(plain, file), before_replace=announce)
        return entry

    def _prune(self, iteration: int) -> None:
        """Files of later iterations are left: after a user went back they are not ours to judge."""
        if self.keep_last <= 0:
            return
        own = [p for p in self.folder.glob("model_*.pth") if _NUMBERED.fullmatch(p.name)]
        own = sorted((p for p in own if _iteration(p) <= iteration), key=_iteration)
        for path in own[: -self.keep_last]:
            path.unlink(missing_ok=True)
            _manifest(path).unlink(missing_ok=True)

    def _prepare(self) -> None:
        """Before the first write: the folder, and no temporary files of a run that was killed."""
        if self._prepared:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Cannot make the folder {self.folder}: {error.strerror}.") from None
        for path in self.folder.iterdir():
            if _STALE.fullmatch(path.name):
                log.info("Removed %s, left by a run that was killed.", path)
                path.unlink(missing_ok=True)
        self._prepared = True


def newest_weights(folder: str | Path) -> dict[str, torch.Tensor]:
    """The whole model of a run as last saved: its moving average if the run keeps one.

    A published folder is as good as the run that it was made of.
    """
    if is_published(folder):
        return read_weights(whole_model(folder)).state
    state = RunCheckpointer(folder, keep_last=0).latest()
    if state is None:
        raise UserError(no_checkpoint(folder))
    average = state.get("ema")
    return average["average"] if average else state["model"]


def verify(path: Path) -> Entry | None:
    """Compare a file with its manifest; None when there is no manifest (a file from elsewhere)."""
    if not _manifest(path).exists():
        log.warning("%s has no manifest: it is taken if it loads.", path)
        return None
    entry = _matching(path, _entries(_manifest(path)))
    if entry is None:
        raise BrokenCheckpoint(
            f"{path} ({path.stat().st_size} bytes) is not the file its manifest describes"
        )
    return entry


def plain_state(value: Any, where: str = "state") -> Any:
    """Tensors and primitives only, so that safe loading reads it; a TypeError names the culprit."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Mapping):
        items = {key: plain_state(item, f"{where}[{key!r}]") for key, item in value.items()}
        return _ordered(items, value) if isinstance(value, OrderedDict) else items
    if isinstance(value, list | tuple):
        items_list = [plain_state(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items_list if isinstance(value, list) else tuple(items_list)
    raise TypeError(
        f"{where} is a {type(value).__name__}; checkpoints hold tensors and primitives."
    )


def _ordered(items: dict, source: OrderedDict) -> OrderedDict:
    """A module's state dict carries version numbers that its next load looks at."""
    result = OrderedDict(items)
    if hasattr(source, "_metadata"):
        result._metadata = plain_state(source._metadata)  # type: ignore[attr-defined]
    return result


def _load(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).strip().partition("\n")[0][:160]
        raise BrokenCheckpoint(f"{path} does not load ({first})") from error
    if not isinstance(state, dict) or "model" not in state:
        raise BrokenCheckpoint(f"{path} loads but holds no run state")
    return state


def _manifest(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _entries(manifest: Path) -> list[Entry]:
    """The version a manifest announces and the one it replaces; none if it is unreadable."""
    try:
        value = json.loads(manifest.read_text())
        found = [value, value["replaces"]] if "replaces" in value else [value]
        names = Entry.__dataclass_fields__
        return [Entry(**{k: v for k, v in item.items() if k in names}) for item in found]
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def _matching(path: Path, entries: list[Entry]) -> Entry | None:
    """The entry whose size and hash are the file's own; the hash is read only if a size fits."""
    size = path.stat().st_size
    fitting = [entry for entry in entries if entry.size == size]
    digest = sha256(path) if fitting else ""
    return next((entry for entry in fitting if entry.sha256 == digest), None)


def _iteration(path: Path) -> int:
    numbered = _NUMBERED.fullmatch(path.name)
    if numbered:
        return int(numbered[1])
    entries = _entries(_manifest(path))
    return entries[0].iteration if entries else 2**62  # a final file without a manifest is newest
