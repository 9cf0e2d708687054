"""Pictures of runs as part of the page: base64, so that the page is one file to be mailed.

Pictures of one image stand side by side, of several runs to compare them, of several iterations to
see them change; those with a value, such as failures, are sorted by it.
"""

import base64
import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image, features

from d2_unsupdet.analysis.page_names import breakable
from d2_unsupdet.analysis.run_pictures import Picture
from d2_unsupdet.analysis.runs import Run

_TITLES = {
    "predictions": ("Predictions", "Beside the ground truth."),
    "failures": ("Failures", "Test images that the model has the highest loss on."),
    "attention": ("Attention", "Where the detector looks for a box."),
    "eigen": ("Eigen attention", "What the backbone's features take for one thing."),
    "views": ("Views", "Two views of an image, and the overlap that both show."),
    "priors": ("Boxes to find", "What the pretext asks the detector for."),
    "prior_evolution": ("Boxes over time", "How the boxes change from generation to generation."),
}
_SMALL = 24_000  # bytes of a PNG that is kept as it is
_LONGEST, _SHORTER = 1200, 700  # pixels of the longer side
_BYTES = 7_000_000  # of all pictures; a page has to be mailed
# What Pillow raises for bytes that are no picture, or a small file of a gigantic one.
_DAMAGED = (
    *(OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError),
    *(struct.error, Image.DecompressionBombError),
)
_ON_A_PAGE = 120  # pictures, unless asked for more


@dataclass
class _Shot:
    """A picture and the run it is of."""

    run: Run
    picture: Picture


class Gallery:
    """The pictures of all runs by group.

    Args:
        runs: in the order of the page.
        most: of each run and group; None divides what a page can hold.
    """

    def __init__(self, runs: Sequence[Run], most: int | None = None) -> None:
        self.runs = runs
        self.notes: list[str] = []
        self._number = 0
        found = {picture.group for run in runs for picture in run.pictures}
        order = {group: place for place, group in enumerate(_TITLES)}
        self.groups = sorted(found, key=lambda group: (order.get(group, len(order)), group))
        cells = max(1, sum(len({picture.group for picture in run.pictures}) for run in runs))
        self.most = max(2, min(12, _ON_A_PAGE // cells)) if most is None else most
        self._hidden = 0
        chosen = sum(len(self._chosen(group)) for group in self.groups)
        self._share = _BYTES * 3 // 4 // max(1, chosen)  # base64 writes three bytes as four signs
        self._hidden = 0

    def html(self) -> str:
        """All groups, with links to them where there are several."""
        parts = [self._group(group, f"pictures-{i}") for i, group in enumerate(self.groups)]
        if self._hidden:
            self.notes.append(
                f"{self._hidden} more pictures are only in the runs' folders (--max-pictures)."
            )
        links = "".join(
            f'<a href="#pictures-{i}">{escape(_title(group)[0])}</a>'
            for i, group in enumerate(self.groups)
        )
        jump = f'<p class="jump">{links}</p>' if len(self.groups) > 1 else ""
        return jump + "".join(parts)

    def _group(self, group: str, anchor: str) -> str:
        shots = self._chosen(group)
        title, about = _title(group)
        if group == "failures" or all(shot.picture.value is not None for shot in shots):
            body = self._sorted(shots)
        elif _repeats([(id(s.run), s.picture.shown) for s in shots]):
            body = self._evolution(shots)
        elif len({id(s.run) for s in shots}) > 1 and _repeats([s.picture.shown for s in shots]):
            body = self._compared(shots)
        else:
            body = f'<div class="shots">{"".join(self._figure(s) for s in shots)}</div>'
        return (
            f'<div class="group" id="{anchor}"><h3>{escape(title)}</h3>'
            f'<p class="dim">{escape(about)}</p>{body}</div>'
        )

    def _chosen(self, group: str) -> list[_Shot]:
        """The same images of each run first, so that there is something to compare."""
        own = {id(run): [p for p in run.pictures if p.group == group] for run in self.runs}
        count: dict[str, int] = {}
        for pictures in own.values():
            for shown in {picture.shown for picture in pictures}:
                count[shown] = count.get(shown, 0) + 1
        shots = []
        for run in self.runs:
            pictures = own[id(run)]
            ranked = sorted(pictures, key=lambda p: (-(p.value or 0.0), -count[p.shown]))
            images = list(dict.fromkeys(picture.shown for picture in ranked))
            kept = [p for p in pictures if p.shown in images[: self.most]]
            self._hidden += len(pictures) - len(kept)
            shots += [_Shot(run, picture) for picture in kept]
        return shots

    def _sorted(self, shots: Sequence[_Shot]) -> str:
        shots = sorted(shots, key=lambda s: -(s.picture.value or 0.0))
        return f'<div class="shots sorted">{"".join(self._figure(s) for s in shots)}</div>'

    def _evolution(self, shots: Sequence[_Shot]) -> str:
        rows: dict[tuple[int, str], list[_Shot]] = {}
        for shot in shots:
            rows.setdefault((id(shot.run), shot.picture.shown), []).append(shot)
        parts = []
        for (_, image), own in rows.items():
            own.sort(key=lambda s: s.picture.iteration or 0)
            name = f" {self._tag(own[0])}" if len(self.runs) > 1 else ""
            labels = _steps([shot.picture for shot in own])
            tiles = [
                self._figure(s, label, tag=False) for s, label in zip(own, labels, strict=True)
            ]
            parts.append(_strip(f"{breakable(image)}{name}", tiles, "evolution"))
        return "".join(parts)

    def _compared(self, shots: Sequence[_Shot]) -> str:
        rows: dict[str, list[_Shot]] = {}
        for shot in shots:
            rows.setdefault(shot.picture.shown, []).append(shot)
        parts, alone = [], []
        for image, own in sorted(rows.items(), key=lambda row: -len(row[1])):
            if len(own) == 1:
                alone.append(self._figure(own[0]))
                continue
            tiles = [self._figure(s, s.run.name, tag=False) for s in own]
            parts.append(_strip(breakable(image), tiles, "compare"))
        rest = f'<div class="shots">{"".join(alone)}</div>' if alone else ""
        return "".join(parts) + rest

    def _figure(self, shot: _Shot, label: str | None = None, *, tag: bool = True) -> str:
        picture = shot.picture
        try:
            data, kind, width, height = encode(picture, share=self._share)
        except _DAMAGED:
            self.notes.append(f"{shot.run.name}: the picture {picture.path.name} cannot be read.")
            return ""
        self._number += 1
        alt = escape(picture.alt or picture.caption)
        said = breakable(picture.caption if label is None else label)
        whose = f" {self._tag(shot)}" if tag and len(self.runs) > 1 else ""
        full = escape(picture.caption + (f" ({shot.run.name})" if len(self.runs) > 1 else ""))
        value = "" if picture.value is None else f' data-value="{picture.value!r}"'
        return (
            f'<figure class="shot" id="picture-{self._number}"{value}>'
            f'<a href="#picture-{self._number}" data-caption="{full}" aria-label="Enlarge: {full}">'
            f'<img loading="lazy" decoding="async" width="{width}" height="{height}" alt="{alt}" '
            f'src="data:image/{kind};base64,{data}"></a><figcaption>{said}{whose}</figcaption>'
            "</figure>"
        )

    def _tag(self, shot: _Shot) -> str:
        return f'<span class="tag">{breakable(shot.run.name)}</span>'


def encode(picture: Picture, share: int | None = None) -> tuple[str, str, int, int]:
    """Base64 text, "png", "webp" or "jpeg", width and height of what is really an image.

    One that takes more than its `share` of the page's bytes is made smaller.
    """
    content = picture.path.read_bytes()
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
        image.load()
        if image.format == "PNG" and len(content) <= min(_SMALL, share or _SMALL):
            return base64.b64encode(content).decode(), "png", image.width, image.height
        smaller = image.convert("RGB")
    smaller.thumbnail((_LONGEST, 4 * _LONGEST))
    data, kind = _packed(smaller)
    if share is not None and len(data) > share:
        smaller.thumbnail((_SHORTER, 4 * _SHORTER))
        data, kind = _packed(smaller, quality=55)
    if content[:4] == b"\x89PNG" and len(content) <= len(data):
        with Image.open(io.BytesIO(content)) as image:
            return base64.b64encode(content).decode(), "png", image.width, image.height
    return base64.b64encode(data).decode(), kind, smaller.width, smaller.height


def _packed(image: Image.Image, quality: int = 72) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    if features.check("webp"):  # half of JPEG's size on what runs draw
        # Method 2 writes a tenth more than 3, in less than half of the time.
        image.save(buffer, format="WEBP", quality=quality, method=2)
        return buffer.getvalue(), "webp"
    image.save(buffer, format="JPEG", quality=quality + 8, optimize=True)
    return buffer.getvalue(), "jpeg"


def _title(group: str) -> tuple[str, str]:
    return _TITLES.get(group, (group.replace("_", " ").capitalize(), ""))


def _repeats(values: Sequence[object]) -> bool:
    return len(set(values)) < len(values)


def _steps(pictures: Sequence[Picture]) -> list[str]:
    """The step of each picture of one image, and of its caption what is not the same in all."""
    rests, labels = [], []
    for picture in pictures:
        rest = picture.caption.removeprefix(f"{picture.shown}: ")
        rests.append(rest.removesuffix(f", after {picture.iteration} steps"))
    for picture, rest in zip(pictures, rests, strict=True):
        step = "" if picture.iteration is None else f"step {picture.iteration:,}"
        own = rest if len(set(rests)) > 1 or not step else ""
        labels.append(": ".join(filter(None, (step, own))))
    return labels


def _strip(title: str, tiles: Sequence[str], kind: str) -> str:
    row = f'<div class="strip-shots">{"".join(tiles)}</div>'
    return f'<div class="{kind}"><h4>{title}</h4>{row}</div>'
