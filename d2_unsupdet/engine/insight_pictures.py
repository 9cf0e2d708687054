"""Pictures of what a DETR-style detector looks at, and of a pretext's boxes as they change."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from d2_unsupdet.analysis.attention import trace_attention
from d2_unsupdet.analysis.attention_pictures import draw_attention
from d2_unsupdet.analysis.eigen_pictures import draw_eigen, eigen_attention
from d2_unsupdet.analysis.pictures import beside, draw_instances, fitted, titled, to_rgb
from d2_unsupdet.analysis.prior_pictures import draw_priors
from d2_unsupdet.analysis.which_boxes import as_objects
from d2_unsupdet.data.images import BadImage
from d2_unsupdet.detectors import DETR
from d2_unsupdet.engine.gallery import Drawn
from d2_unsupdet.engine.whole_images import as_it_is, short_names, spread_places
from d2_unsupdet.pretext.box_pretext import BoxPretext
from d2_unsupdet.priors.generation import Generation

FEW = 3  # images: each takes many panels
QUERIES = 3
MOST_CELLS = 2500  # a cut takes its square in memory; JoinDet's 480 x 800 pixels have 1500


class InsightPictures:
    """Draws what happens inside of a detector; `model` is in evaluation.

    Args:
        records: of whole images.
        mapper: makes the model's sample of one.
        class_names: of the detector's labels.
        count: images, at most; never more than a few.
    """

    def __init__(
        self, *, records: Sequence[dict], mapper: Any, class_names: Sequence[str], count: int = FEW
    ) -> None:
        places = spread_places(len(records), min(count, FEW))
        self.records = [dict(records[place]) for place in places]
        self.names = short_names([record["file_name"] for record in self.records])
        self.mapper, self.class_names = mapper, class_names

    def attention(self, model: nn.Module) -> Iterator[Drawn]:
        """The last layers' attention: of the surest queries, and of the places they are at."""
        detector = _detector(model)
        if detector is None:
            return
        pretext = isinstance(model, BoxPretext)
        names = ["object"] * detector.heads.num_classes if pretext else self.class_names
        for name, record, image in self._readable():
            trace = trace_attention(detector, [self.mapper(dict(record))])
            # Unsure ones too: early in a run none is sure, and their scores are in the picture.
            queries = trace.best(count=QUERIES, threshold=0.0)
            points = [query.center for query in queries]
            drawn = draw_attention(image, trace, queries, points, names)
            alt = f"{name}: attention of the {len(queries)} surest queries and of their places"
            yield Drawn(name, drawn, f"{name}: attention of the last layers", alt=alt)

    def eigen(self, model: nn.Module) -> Iterator[Drawn]:
        """A pretext's eigen attention: the foreground that a cut of its encoder's tokens finds."""
        detector = _detector(model)
        if detector is None or not isinstance(model, BoxPretext):
            return
        for name, record, image in self._readable():
            sample = self.mapper(dict(record))
            level = _level(detector, sample)
            cut = eigen_attention(detector, sample, level=level)
            height, width = sample["image"].shape[-2:]
            drawn = draw_eigen(image, (height, width), cut, "eigen attention")
            caption = f"{name}: eigen attention of the encoder"
            count = len(cut.boxes_xyxy)
            alt = f"{caption}, {count} region{'s' * (count != 1)}"
            yield Drawn(name, beside([_ground(record, image), drawn]), caption, alt=alt)

    def generation(self, generation: Generation) -> Iterator[Drawn]:
        """The boxes of one generation of living priors."""
        for name, record, image in self._readable():
            height, width = image.shape[:2]
            found = generation.lookup(record, width, height)
            boxes = None if found is None else found.scaled(width, height)
            title = f"generation {generation.number}"
            drawn = draw_priors(image, boxes, title)
            count = 0 if boxes is None else len(boxes)
            caption = f"{name}: {title} of the priors, {count} box{'es' * (count != 1)}"
            yield Drawn(name, drawn, caption)

    def _readable(self) -> Iterator[tuple[str, dict, np.ndarray]]:
        for name, record in zip(self.names, self.records, strict=True):
            try:
                yield name, record, to_rgb(as_it_is(record)["image"])
            except BadImage:
                continue  # whoever reads all images names it


def _detector(model: nn.Module) -> DETR | None:
    inner = model.detector if isinstance(model, BoxPretext) else model
    return inner if isinstance(inner, DETR) else None


def _ground(record: dict, image: np.ndarray) -> np.ndarray:
    """The image, with its objects if they are known."""
    real = as_it_is(record).get("instances")
    if real is None:
        return titled(fitted(image, 320, 480)[0], "image")
    drawn = draw_instances(fitted(image, 320, 480)[0], as_objects(real), [""])
    return titled(drawn, f"ground truth: {len(real)}")


def _level(detector: DETR, sample: dict) -> int:
    """The finest level whose cells are few enough to cut."""
    features = detector.features(detector.preprocess([sample]))
    shapes = detector.encode(features).shapes
    small = [i for i, (rows, columns) in enumerate(shapes) if rows * columns <= MOST_CELLS]
    return small[0] if small else len(shapes) - 1
