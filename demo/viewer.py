"""What the page asks for, as JSON: boxes, what they look at, and images like it. No HTTP here.

One image at a time is decoded and looked at: hooks on a model are not safe to share between
threads, and memory stays what one image needs. Only so many wait.
"""

import base64
import filecmp
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from uploads import Limits, Refused, Upload, check, received

from d2_unsupdet.analysis.alike import Gallery, small_jpeg
from d2_unsupdet.analysis.attention import Attention, HeatMap
from d2_unsupdet.analysis.attention_pictures import RAMP, share_outside
from d2_unsupdet.analysis.look import Looker
from d2_unsupdet.analysis.pictures import PALETTE, class_colors
from d2_unsupdet.data.images import BadImage, read_image

SHOWN_SIDE = 1280  # of the picture that goes back
BUSY = "Several images are being looked at already: try again in a moment."


class Viewer:
    """Answers for one model and one gallery.

    Args:
        looker: the model.
        gallery: images to find neighbours in; None without.
        limits: of uploads.
        waiting: how many requests may be in work or wait for it.
        patience: seconds that one of them waits.
    """

    def __init__(
        self,
        looker: Looker,
        gallery: Gallery | None,
        *,
        limits: Limits | None = None,
        waiting: int = 4,
        patience: float = 60,
    ) -> None:
        self.looker, self.gallery, self.limits = looker, gallery, limits or Limits()
        self._places = threading.BoundedSemaphore(waiting)
        self._lock, self._patience = threading.Lock(), patience

    def about(self) -> dict[str, Any]:
        """What the page has to know before an image comes."""
        names = self.looker.names
        colors = class_colors(len(names))
        return {
            "model": self.looker.label,
            "boxes": self.looker.shown is not None,
            "attention": self.looker.attends,
            "pretrained": self.looker.only_pretrained,
            "classes": [
                {"name": name, "color": _hex(color)}
                for name, color in zip(names, colors, strict=True)
            ],
            "levels": [_hex(color) for color in PALETTE],
            "ramp": RAMP.tolist(),
            "gallery": len(self.gallery) if self.gallery else 0,
            "megabytes": self.limits.megabytes,
        }

    def look(self, data: bytes) -> dict[str, Any]:
        """An upload's answer."""
        check(data, self.limits)  # what is refused anyway need not wait
        with self._turn(), received(data, self.limits) as upload:
            return self._answer(upload, None)

    def look_at_own(self, index: int) -> dict[str, Any]:
        """The answer for an image of the gallery."""
        path = self._own(index)
        with self._turn():
            try:
                return self._answer(Upload(path, read_image(path)), index)
            except BadImage:
                raise Refused(404, "That image is no longer there.") from None

    def thumbnail(self, index: int) -> bytes:
        """A JPEG of an image of the gallery."""
        self._own(index)
        assert self.gallery is not None
        return self.gallery.thumbnails[index]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Alone with the model, or `Refused` where too many wait or the wait is too long."""
        if not self._places.acquire(blocking=False):
            raise Refused(503, BUSY)
        try:
            if not self._lock.acquire(timeout=self._patience):
                raise Refused(503, BUSY)
            try:
                yield
            finally:
                self._lock.release()
        finally:
            self._places.release()

    def _own(self, index: int) -> Path:
        if self.gallery is None or not 0 <= index < len(self.gallery):
            raise Refused(404, "There is no such image.")
        return self.gallery.paths[index]

    def _answer(self, upload: Upload, index: int | None) -> dict[str, Any]:
        boxes, shapes = self._boxes(upload)
        near = self._near(upload, index)
        height, width = upload.pixels.shape[:2]
        return {
            "width": width,
            "height": height,
            "picture": _data_uri(small_jpeg(upload.pixels, SHOWN_SIDE)),
            "boxes": boxes,
            "shapes": shapes,
            "neighbours": near,
        }

    def _boxes(self, upload: Upload) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
        if self.looker.shown is None:
            return [], []
        look = self.looker.look(upload.path)
        boxes: list[dict[str, Any]] = [
            {
                "box": _rounded(one.box_xyxy),
                "label": one.label,
                "score": round(one.score, 4),
                "query": one.query,
            }
            for one in look.found
        ]
        for box, attention in zip(boxes, look.attention, strict=False):  # not every model attends
            box["attention"] = attention_json(attention)
        return boxes, look.shapes

    def _near(self, upload: Upload, index: int | None) -> list[dict[str, Any]]:
        if self.gallery is None:
            return []
        found = self.gallery.nearest(upload.pixels, without=index)
        files = {one.index: self.gallery.paths[one.index] for one in found}
        return [
            {
                "index": one.index,
                "name": files[one.index].name,  # without its folder
                "similarity": round(one.similarity, 4),
                "same": _same(upload.path, files[one.index]),
            }
            for one in found
        ]


def attention_json(attention: Attention) -> dict[str, Any]:
    """Points as [x, y, weight, level]; heat maps as bytes, 255 where the highest value stands."""
    if isinstance(attention, HeatMap):
        values = attention.values.float().cpu().numpy()
        quantised = np.round(255 * values / max(values.max(), 1e-12)).astype(np.uint8)
        rows, columns = values.shape
        heat = base64.b64encode(quantised.tobytes()).decode()
        return {"rows": rows, "columns": columns, "heat": heat}
    places, weights = attention.places.float().cpu().numpy(), attention.weights.float().cpu()
    columns_of = zip(places, weights.tolist(), attention.levels.tolist(), strict=True)
    points = [[*_rounded(place), round(weight, 5), level] for place, weight, level in columns_of]
    return {"points": points, "outside": round(share_outside(attention), 3)}


def _same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes: an upload may be of the gallery itself."""
    try:
        return filecmp.cmp(one, other, shallow=False)  # looks at the sizes first
    except OSError:  # the gallery's is gone
        return False


def _rounded(numbers: Any) -> list[float]:
    return [round(float(number), 4) for number in numbers]


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
