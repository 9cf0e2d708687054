"""Attention drawn on the image: heat maps, or sampling points whose area is their weight."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image, ImageDraw

from d2_unsupdet.analysis.attention import (
    Attention,
    HeatMap,
    Query,
    SamplingPoints,
    Token,
    Trace,
)
from d2_unsupdet.analysis.pictures import (
    BACKGROUND,
    PALETTE,
    add_box,
    add_cross,
    contact_sheet,
    draw_instances,
    fitted,
    legend,
    titled,
    to_rgb,
)

# Dark to bright in lightness too, so that it reads in grey: violet, red, orange, pale yellow.
RAMP = np.array([(30, 10, 60), (120, 28, 109), (213, 68, 60), (251, 155, 6), (252, 255, 164)])
WHITE = (255, 255, 255)
SMOOTH = 3  # points are drawn this much larger and shrunk, which takes the steps off their edges


def draw_attention(
    image: Any,
    trace: Trace,
    queries: Sequence[Query],
    points: Sequence[tuple[float, float]],
    class_names: Sequence[str],
    *,
    level: int = 0,
) -> np.ndarray:
    """What was found, beside it points of the encoder and, below, queries of the decoder.

    Args:
        image: RGB, the one image of the trace.
        trace: of `trace_attention`.
        queries: whose cross-attention is drawn.
        points: x, y in 0..1 whose tokens' self-attention is drawn.
        class_names: of the labels.
        level: whose tokens stand for the points.
    """
    rgb, _ = fitted(to_rgb(image), 320, 480)
    tokens = [trace.token(point, level=level) for point in points]
    looks = trace.of_tokens([token.index for token in tokens])
    above = [
        panel(rgb, attention, f"encoder, from x={token.place[0]:.2f} y={token.place[1]:.2f}", token)
        for token, attention in zip(tokens, looks, strict=False)  # no layers, no looks
    ]
    reads = trace.of_queries([query.index for query in queries])
    below = [
        panel(rgb, attention, f"query {query.index}: {told(query, class_names)}", query)
        for query, attention in zip(queries, reads, strict=True)
    ]
    title = "queries" if queries else "no query is sure enough"
    first = titled(draw_instances(rgb, instances(queries, rgb.shape), class_names), title)
    heat = not any(isinstance(attention, SamplingPoints) for attention in [*looks, *reads])
    columns = 1 + max(len(above), len(below))
    blank = np.full_like(first, BACKGROUND)
    rows = [[first, *above], [key(blank, trace, heat), *below]]
    return contact_sheet([p for row in rows for p in (row + columns * [blank])[:columns]], columns)


def panel(image: np.ndarray, attention: Attention, title: str, source: Token | Query) -> np.ndarray:
    """One attention over the image, with the cell that looks or the box that a query ends in."""
    height, width = image.shape[:2]
    if isinstance(attention, HeatMap):
        drawn = draw_heat(image, attention)
    else:
        drawn = draw_points(image, attention)
        outside = share_outside(attention)
        title += f" ({outside:.0%} outside)" if outside >= 0.005 else ""
    picture = Image.fromarray(drawn)
    pen = ImageDraw.Draw(picture)
    if isinstance(source, Query):
        box = source.box_xyxy.detach().cpu().numpy() * np.array([width, height] * 2)
        add_box(pen, box.tolist(), WHITE, 2)
    else:
        add_cross(pen, (source.place[0] * width, source.place[1] * height))
    return titled(np.asarray(picture), title)


def instances(queries: Sequence[Query], shape: Sequence[int]) -> Instances:
    """The queries' answers as Detectron2 keeps them."""
    height, width = shape[:2]
    boxes = [query.box_xyxy.detach().cpu() for query in queries]
    scale = torch.tensor([width, height] * 2)
    return Instances(
        (height, width),
        pred_boxes=Boxes(torch.stack(boxes) * scale if boxes else torch.zeros(0, 4)),
        scores=torch.tensor([query.score for query in queries]),
        pred_classes=torch.tensor([query.label for query in queries], dtype=torch.int64),
    )


def key(blank: np.ndarray, trace: Trace, heat: bool) -> np.ndarray:
    """What the colours mean, in a panel of its own."""
    if heat:
        names = ["most attention", "", "", "", "none"]
        entries = list(zip(names, [tuple(color) for color in RAMP[::-1].tolist()], strict=True))
    else:
        shapes = trace.encoded.shapes
        names = [f"level {i}: {h} x {w}" for i, (h, w) in enumerate(shapes)]
        entries = [*zip(names, PALETTE, strict=False), ("area: weight", BACKGROUND)]
    drawn, picture = legend(entries, 1), blank.copy()
    height, width = min(drawn.shape[0], blank.shape[0]), min(drawn.shape[1], blank.shape[1])
    picture[:height, :width] = drawn[:height, :width]
    return picture


def draw_heat(image: np.ndarray, attention: HeatMap) -> np.ndarray:
    """The image in grey under the map, from nothing to the map's highest value."""
    values = attention.values.detach().float().cpu().numpy()
    values = values / max(values.max(), 1e-12)
    size = image.shape[1], image.shape[0]
    smooth = Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(smooth), 0, 1)[..., None]
    color = np.stack([np.interp(heat[..., 0], np.linspace(0, 1, 5), c) for c in RAMP.T], axis=-1)
    cover = 0.25 + 0.6 * heat  # a faint tint where nothing is seen, and the image through the peak
    return ((1 - cover) * grey(image) + cover * color).astype(np.uint8)


def draw_points(image: np.ndarray, attention: SamplingPoints) -> np.ndarray:
    """The image in grey under the points, coloured by level, the heaviest below."""
    height, width = image.shape[:2]
    places = attention.places.detach().float().cpu().numpy() * (width, height)
    weights = attention.weights.detach().float().cpu().numpy()
    levels = attention.levels.tolist()
    # Even weights give radii of a hundredth of the side; area is proportional to weight.
    radius = 0.012 * max(height, width) * np.sqrt(weights * len(weights))
    layer = Image.new("RGBA", (width * SMOOTH, height * SMOOTH))
    pen = ImageDraw.Draw(layer)
    for i in np.argsort(-weights, kind="stable"):
        (x, y), r = places[i] * SMOOTH, max(radius[i], 1) * SMOOTH
        color = PALETTE[levels[i] % len(PALETTE)]
        pen.ellipse((x - r, y - r, x + r, y + r), (*color, 215), (*BACKGROUND, 255), SMOOTH)
    layer = layer.resize((width, height), Image.Resampling.LANCZOS)
    ground = Image.fromarray(grey(image).astype(np.uint8)).convert("RGBA")
    return np.asarray(Image.alpha_composite(ground, layer).convert("RGB"))


def share_outside(attention: SamplingPoints) -> float:
    """The weight of points past the image, which a picture cannot show."""
    inside = ((attention.places >= 0) & (attention.places <= 1)).all(-1)
    return float(attention.weights[~inside].sum())


def grey(image: np.ndarray) -> np.ndarray:
    """Float RGB with little colour and less light, a ground for what is drawn on it."""
    light = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return 0.75 * (0.25 * image + 0.75 * light[..., None])


def told(query: Query, class_names: Sequence[str]) -> str:
    """Class and score."""
    known = query.label < len(class_names)
    return f"{class_names[query.label] if known else query.label} {query.score:.2f}"
