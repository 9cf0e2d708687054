"""Names as the page shows them: short where that tells them apart, and with places to break.

A data set's may hold paths, "coco:output/own/val.json@output/own/images/val": a heading needs less.
"""

import re
from collections.abc import Iterable
from html import escape
from pathlib import PurePosixPath

# `prefix:first@second`, as many as there are: a list of names is one text, too.
_PATHS = re.compile(r"\b([a-z_]+:)(?!//)([^@,;'\"\[\]]*)(?:@([^,;'\"\[\]]*))?")


def short_data(names: str) -> str:
    """ "coco:output/own/val.json@output/own/images" -> "coco:own/val.json"; a split stays."""

    def shorter(found: re.Match[str]) -> str:
        prefix, first, second = found.groups()
        if "/" not in f"{first}{second or ''}":
            return found.group()
        split = f"@{second}" if second and "/" not in second else ""
        # COCO's layout says "annotations" of every data set.
        return f"{prefix}{last_parts(first.replace('/annotations/', '/'))}{split}"

    return _PATHS.sub(shorter, names)


def last_parts(path: str) -> str:
    """ "/data/own/val.json" -> "own/val.json"."""
    return "/".join(PurePosixPath(path).parts[-2:]) if "/" in path else path


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Each name -> its short form, or itself where others would have the same."""
    shorts = {name: short_data(name) for name in names}
    found = list(shorts.values())
    return {name: text if found.count(text) == 1 else name for name, text in shorts.items()}


def breakable(text: str) -> str:
    """Escaped, with the places where a long name of files and words may break."""
    if len(text) <= 12:
        return escape(text)
    return re.sub("([_/])", r"\1<wbr>", escape(text)).replace("@", "<wbr>@")
