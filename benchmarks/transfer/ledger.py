"""Finished runs in a file."""

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2_unsupdet.checkpoint.files import write_json
from d2_unsupdet.errors import UserError


@dataclass
class Ledger:
    """Finished runs in a JSON file, written whole after each of them.

    Args:
        path: the file; a missing one is empty.
    """

    path: Path
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        if self.path.exists():
            try:
                self.runs = json.loads(self.path.read_text())["runs"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"'{self.path}' is not a ledger of this benchmark ({error}); move it away."
                ) from error

    def add(self, key: str, entry: dict[str, Any]) -> None:
        with self.lock:
            self.runs[key] = entry
            write_json(self.path, {"runs": self.runs})

    def entries(self, kind: str) -> list[dict[str, Any]]:
        return [entry for entry in self.runs.values() if entry["kind"] == kind]
