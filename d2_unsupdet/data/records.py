"""What a sample keeps of its record, so that it can be found and drawn again."""

from collections.abc import Mapping
from typing import Any


def identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """File, id and place in the data set, as far as they are known."""
    keys = "file_name", "image_id", "index", "epoch", "copy"
    return {k: record[k] for k in keys if k in record}
