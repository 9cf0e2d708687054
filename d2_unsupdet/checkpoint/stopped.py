"""What a run leaves that an error ended, and the sentence for whoever looks for its weights."""

import json
from pathlib import Path

STOPPED = "stopped.json"
_LONGEST = 500  # a folder may come from anywhere


def no_checkpoint(folder: str | Path) -> str:
    """A sentence about a run without a checkpoint, with the reason if an error ended it."""
    reason = why_stopped(folder)
    if reason:
        return f"The run '{folder}' was stopped before its first checkpoint: {reason}"
    return f"The run '{folder}' holds no checkpoint yet."


def why_stopped(folder: str | Path) -> str:
    """The error that ended the run last time, as a sentence; empty if none did."""
    try:
        reason = json.loads((Path(folder) / STOPPED).read_text(encoding="utf-8"))["reason"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    line = " ".join(str(reason).split())[:_LONGEST]
    return line if not line or line.endswith((".", "!", "?")) else f"{line}."
