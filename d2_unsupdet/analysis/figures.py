"""Pictures of a run as part of the page: base64, so that the page is one file to be mailed."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from d2_unsupdet.analysis.runs import Picture, Run

_TITLES = {
    "priors": "Boxes that the pretext has to find",
    "views": "Paired views: the overlap that both views show, in each view's own pixels",
    "predictions": "Predictions beside ground truth",
}
_PNG_LIMIT = 60_000  # bytes; larger photographs are three to five times smaller as JPEG


def gallery(runs: Sequence[Run], max_pictures: int) -> tuple[str, list[str]]:
    """The pictures of all runs by group, at most `max_pictures` a run and group; and remarks."""
    groups = list(dict.fromkeys(p.group for run in runs for p in run.pictures))
    order = {group: place for place, group in enumerate(_TITLES)}
    parts, notes, number = [], [], 0
    for group in sorted(groups, key=lambda g: order.get(g, len(order))):
        parts.append(f"<h3>{escape(_TITLES.get(group, group.capitalize()))}</h3>")
        shots = []
        for run in runs:
            hidden = len([p for p in run.pictures if p.group == group]) - max_pictures
            if hidden > 0:
                notes.append(
                    f"{run.name}: {hidden} more pictures ({group}) are only in its folder."
                )
        for run, picture in _in_order(runs, group, max_pictures):
            number += 1
            try:
                shots.append(_figure(picture, run.name, number))
            except (OSError, ValueError, Image.DecompressionBombError):
                notes.append(f"{run.name}: the picture {picture.path.name} cannot be read.")
        parts.append(f'<div class="shots">{"".join(shots)}</div>')
    return "".join(parts), notes


def _in_order(runs: Sequence[Run], group: str, most: int) -> list[tuple[Run, Picture]]:
    """Pictures of the same caption together, so that runs are compared image by image."""
    shown = [(run, p) for run in runs for p in [p for p in run.pictures if p.group == group][:most]]
    place = {caption: i for i, caption in enumerate(dict.fromkeys(p.caption for _, p in shown))}
    return sorted(shown, key=lambda pair: place[pair[1].caption])


def _figure(picture: Picture, run_name: str, number: int) -> str:
    data, kind, width, height = encode(picture)
    caption = escape(picture.caption)
    return (
        f'<figure class="shot" id="picture-{number}"><a href="#picture-{number}" '
        f'aria-label="Enlarge: {caption}"><img loading="lazy" decoding="async" width="{width}" '
        f'height="{height}" alt="{caption}" src="data:image/{kind};base64,{data}"></a>'
        f'<figcaption>{caption} <span class="tag">{escape(run_name)}</span></figcaption></figure>'
    )


def encode(picture: Picture) -> tuple[str, str, int, int]:
    """Base64 text, "png" or "jpeg", width and height of a picture that is really an image."""
    content = picture.path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        if image.format == "PNG" and len(content) <= _PNG_LIMIT:
            return base64.b64encode(content).decode(), "png", image.width, image.height
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=88, optimize=True)
        return base64.b64encode(buffer.getvalue()).decode(), "jpeg", image.width, image.height
