"""What a sample keeps of its record, so that it can be found and drawn again."""

from collections.abc import Mapping
from typing import Any


def identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """File, id and place in the data set, as far as they are known."""
    return {k: record[k] for k in ("file_name", "image_id", "index", "epoch") if k in record}
