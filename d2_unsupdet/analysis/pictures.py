"""Pictures that explain a run: paired views with their overlap, predictions beside ground truth
(boxes, or label maps).

Drawn with Pillow on uint8 RGB arrays, so that the report, TensorBoard and a notebook can use them.
"""

import colorsys
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from d2_unsupdet.analysis.lettering import Labels, font, written
from d2_unsupdet.analysis.which_boxes import surest
from d2_unsupdet.checkpoint.files import atomic_write, write_json

if TYPE_CHECKING:
    import torch
    from detectron2.structures import Instances

PALETTE = (  # Okabe and Ito's colours, told apart by most colour-blind readers, and four more
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (255, 255, 255), (170, 68, 255), (120, 220, 80),
    (255, 110, 110), (150, 150, 150),
)  # fmt: skip
BACKGROUND, INK, GAP = (24, 28, 34), (236, 239, 243), 8
_INDEX = "index.json"


def draw_views(sample: dict[str, Any]) -> np.ndarray:
    """Both views of a paired sample side by side, each with its overlap box drawn.

    The corner that is top left in the image itself is marked in both, so a flip is visible.
    """
    panels = []
    boxes, flipped = np.asarray(sample["overlap"], dtype=float), np.asarray(sample["flipped"])
    valid = bool(sample["valid"])
    for number, view in enumerate(sample["views"]):
        image, scale = fitted(to_rgb(view), 224, 512)
        picture = Image.fromarray(image)
        if valid:
            box = (boxes[number] * scale).tolist()
            add_box(ImageDraw.Draw(picture), box, PALETTE[0], 3)
            corner = (box[2], box[1]) if flipped[number] else (box[0], box[1])
            _dot(ImageDraw.Draw(picture), corner, PALETTE[0])
        title = f"view {number + 1}" + (", flipped" if flipped[number] else "")
        panels.append(titled(np.asarray(picture), title if valid else f"{title}, no overlap"))
    return beside(panels)


def draw_predictions(
    image: "np.ndarray | torch.Tensor",
    gt_instances: "Instances | None",
    pred_instances: "Instances",
    class_names: Sequence[str],
    threshold: float = 0.5,
    top: int | None = None,
) -> np.ndarray:
    """Ground truth on the left; on the right predictions from `threshold` on, or the `top` surest.

    Boxes are in the pixels of the `image_size` of their instances, which need not be the image's.
    """
    rgb = to_rgb(image)
    kept = surest(pred_instances, threshold, top)
    title = (
        f"predictions above {threshold:g}: {len(kept)}" if top is None else f"{len(kept)} surest"
    )
    right = titled(draw_instances(rgb, kept, class_names), title)
    if gt_instances is None:
        return right
    left = draw_instances(rgb, gt_instances, class_names)
    return beside([titled(left, f"ground truth: {len(gt_instances)}"), right])


def draw_instances(
    image: np.ndarray, instances: "Instances", class_names: Sequence[str]
) -> np.ndarray:
    """Boxes with class names (and scores), masks as a tint; the image enlarged when it is small.

    Every box is drawn; of labels that would cover each other only the surest one's.
    """
    drawn, _ = fitted(image, 320, 640)
    height, width = drawn.shape[:2]
    old_height, old_width = instances.image_size
    fields = instances.get_fields()
    boxes = fields["pred_boxes" if "pred_boxes" in fields else "gt_boxes"].tensor.detach().cpu()
    classes = fields["pred_classes" if "pred_classes" in fields else "gt_classes"].tolist()
    scores = fields["scores"].tolist() if "scores" in fields else [None] * len(classes)
    masks = _masks(fields, old_height, old_width)
    drawn = _tint(drawn, masks, classes)
    picture = Image.fromarray(drawn)
    pen = ImageDraw.Draw(picture)
    order = np.argsort([-(s or 0) for s in scores], kind="stable")
    factors = np.array([width / old_width, height / old_height] * 2)
    scaled = boxes.double().numpy() * factors
    colors = [PALETTE[k % len(PALETTE)] for k in classes]
    for i in order[::-1]:  # the surest on top
        add_box(pen, scaled[i].tolist(), colors[i], 2)
    labels = Labels(pen, width, height)
    for i in order:
        name = class_names[classes[i]] if classes[i] < len(class_names) else str(classes[i])
        text = name if scores[i] is None else f"{name} {scores[i]:.2f}"
        if text:
            labels.add(scaled[i].tolist(), text, colors[i])
    return np.asarray(picture)


def draw_segmentation(
    image: "np.ndarray | torch.Tensor",
    labels: "np.ndarray | torch.Tensor | None",
    predicted: "np.ndarray | torch.Tensor",
    class_names: Sequence[str],
) -> np.ndarray:
    """Image, label map and prediction side by side, and the names of the colours.

    Args:
        image: RGB.
        labels: class of each pixel, (H, W); what is no class stays dark. None without labels.
        predicted: class of each pixel, of the same size.
        class_names: in label order; a colour belongs to a class.
    """
    rgb, _ = fitted(to_rgb(image), 224, 512)
    size = rgb.shape[1], rgb.shape[0]
    maps = {"label": labels, "prediction": predicted}
    known = {title: np.asarray(values) for title, values in maps.items() if values is not None}
    colors = class_colors(len(class_names))
    panels = [titled(rgb, "image")]
    panels += [titled(_colored(values, colors, size), title) for title, values in known.items()]
    present = sorted(
        {int(k) for values in known.values() for k in np.unique(values) if 0 <= k < len(colors)}
    )
    colours = legend([(class_names[k], colors[k]) for k in present], panels[0].shape[0])
    return beside([*panels, colours])


def class_colors(count: int) -> list[tuple[int, int, int]]:
    """A colour for each class: the palette, then hues that are far from one another."""
    more = []
    for number in range(count - len(PALETTE)):
        hue, dim = number * 0.618034 % 1, number % 2
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.55, 0.95 if dim else 0.6)
        more.append((round(255 * red), round(255 * green), round(255 * blue)))
    return [*PALETTE[:count], *more]


def contact_sheet(images: Sequence[np.ndarray], columns: int = 4) -> np.ndarray:
    """Images of any sizes on a grid, each in the middle of its cell."""
    if not images:
        return np.full((1, 1, 3), BACKGROUND, dtype=np.uint8)
    columns = min(columns, len(images))
    cell_h = max(image.shape[0] for image in images) + GAP
    cell_w = max(image.shape[1] for image in images) + GAP
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * cell_h - GAP, columns * cell_w - GAP, 3), BACKGROUND, dtype=np.uint8)
    for i, image in enumerate(images):
        top = i // columns * cell_h + (cell_h - GAP - image.shape[0]) // 2
        left = i % columns * cell_w + (cell_w - GAP - image.shape[1]) // 2
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def save_picture(
    run_dir: str | Path,
    group: str,
    image: np.ndarray,
    caption: str,
    *,
    value: float | None = None,
    iteration: int | None = None,
    name: str | None = None,
    alt: str | None = None,
) -> Path:
    """Write `pictures/<group>_<n>.png` and its line in `pictures/index.json` for the report.

    What is drawn again is replaced, so that a resumed run has each once: a picture of the same
    image and iteration if the image is named, otherwise of the same caption.

    Args:
        run_dir: the run folder.
        group: views, priors, prior_evolution, predictions, attention, eigen, failures.
        image: RGB.
        caption: one sentence.
        value: what the group is sorted by, such as the image's loss.
        iteration: steps done by then.
        name: of the image, the same in every run and at every iteration.
        alt: for who cannot see it; without it the caption.
    """
    folder = Path(run_dir) / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    index = _read_index(folder / _INDEX)
    entry: dict[str, Any] = {"caption": caption, "group": group}
    more = {"value": value, "iteration": iteration, "image": name, "alt": alt}
    entry |= {key: given for key, given in more.items() if given is not None}
    same = [i for i, old in enumerate(index) if _identity(old) == _identity(entry)]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", group) or "picture"
    taken = {old.get("file") for old in index}
    entry = {"file": index[same[0]]["file"] if same else _free_name(stem, taken), **entry}
    buffer = io.BytesIO()
    # Level 3 takes a third of the default's time for a tenth more bytes.
    Image.fromarray(image).save(buffer, format="PNG", compress_level=3)
    atomic_write(folder / entry["file"], lambda file: file.write(buffer.getvalue()))
    if not same or index[same[0]] != entry:
        place = same[0] if same else len(index)
        write_json(folder / _INDEX, [*index[:place], entry, *index[place + 1 :]])
    return folder / entry["file"]


def drop_pictures(run_dir: str | Path, chosen: Callable[[dict[str, Any]], bool]) -> None:
    """Take the chosen lines out of `pictures/index.json`, then delete their files."""
    folder = Path(run_dir) / "pictures"
    index = _read_index(folder / _INDEX)
    gone = [entry for entry in index if chosen(entry)]
    if gone:
        write_json(folder / _INDEX, [entry for entry in index if entry not in gone])
    for entry in gone:
        (folder / Path(str(entry.get("file"))).name).unlink(missing_ok=True)


def to_rgb(image: "np.ndarray | torch.Tensor") -> np.ndarray:
    """(H, W, 3) uint8 RGB from such an array or from a (3, H, W) tensor."""
    array = image if isinstance(image, np.ndarray) else image.detach().cpu().numpy()
    if array.ndim == 3 and array.shape[0] == 3 and not isinstance(image, np.ndarray):
        array = array.transpose(1, 2, 0)
    return np.ascontiguousarray(np.clip(array, 0, 255).astype(np.uint8))


def fitted(image: np.ndarray, smallest: int, largest: int) -> tuple[np.ndarray, float]:
    """Scaled so that the longer side lies in [smallest, largest]; and the factor."""
    side = max(image.shape[:2])
    scale = min(max(side, smallest), largest) / side
    if scale == 1:
        return image.copy(), 1.0
    size = [max(1, round(s * scale)) for s in (image.shape[1], image.shape[0])]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)), scale


def add_box(pen: Any, box: Sequence[float], color: tuple[int, int, int], width: int) -> None:
    """A dark line under the coloured one keeps it visible on any ground."""
    x0, y0 = min(box[0], box[2]), min(box[1], box[3])
    x1, y1 = max(box[0], box[2]), max(box[1], box[3])
    pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=BACKGROUND, width=width + 2)
    pen.rectangle((x0, y0, x1, y1), outline=color, width=width)


def add_cross(pen: Any, center: Sequence[float], size: int = 7) -> None:
    """A white cross with a dark edge."""
    x, y = center
    for color, width in ((BACKGROUND, 5), ((255, 255, 255), 2)):
        pen.line((x - size, y, x + size, y), fill=color, width=width)
        pen.line((x, y - size, x, y + size), fill=color, width=width)


def legend(entries: Sequence[tuple[str, tuple[int, int, int]]], height: int) -> np.ndarray:
    """Names beside their colours, at least `height` high."""
    row = 18
    names = [written(name) for name, _ in entries]
    widest = max([font(12).getlength(name) for name in names], default=0)
    picture = Image.new(
        "RGB", (math.ceil(widest) + 30, max(height, row * len(entries))), BACKGROUND
    )
    pen = ImageDraw.Draw(picture)
    for number, (name, (_, color)) in enumerate(zip(names, entries, strict=True)):
        top = number * row + 2
        pen.rectangle((2, top, 14, top + 12), fill=color)
        pen.text((20, top - 1), name, fill=INK, font=font(12))
    return np.asarray(picture)


def titled(image: np.ndarray, title: str) -> np.ndarray:
    """The image under a bar with its title."""
    bar = Image.new("RGB", (image.shape[1], 24), BACKGROUND)
    ImageDraw.Draw(bar).text((4, 4), written(title), fill=INK, font=font(12))
    return np.concatenate([np.asarray(bar), image], axis=0)


def beside(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images in a row."""
    return contact_sheet(images, columns=len(images))


def below(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of any widths in a column, flush left."""
    widest = max(image.shape[1] for image in images)
    rows = []
    for image in images:
        row = np.full((image.shape[0], widest, 3), BACKGROUND, np.uint8)
        row[:, : image.shape[1]] = image
        rows.append(row)
    return contact_sheet(rows, columns=1)


def _read_index(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return [e for e in content if isinstance(e, dict)] if isinstance(content, list) else []


def _identity(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Of two pictures with the same, the newer one replaces the older."""
    what = entry.get("image", entry.get("caption"))
    return entry.get("group"), "image" in entry, what, entry.get("iteration")


def _free_name(stem: str, taken: set[Any]) -> str:
    number = 0
    while f"{stem}_{number:03d}.png" in taken:
        number += 1
    return f"{stem}_{number:03d}.png"


def _masks(fields: dict[str, Any], height: int, width: int) -> np.ndarray | None:
    """(n, height, width) bool, whatever Detectron2 structure holds them."""
    masks = fields.get("pred_masks", fields.get("gt_masks"))
    if masks is None:
        return None
    if hasattr(masks, "polygons"):
        from detectron2.structures import BitMasks

        masks = BitMasks.from_polygon_masks(masks, height, width)
    tensor = getattr(masks, "tensor", masks)
    return tensor.detach().cpu().numpy() > 0.5


def _tint(image: np.ndarray, masks: np.ndarray | None, classes: list[int]) -> np.ndarray:
    if masks is None:
        return image
    blended = image.astype(np.float32)
    for mask, category in zip(masks, classes, strict=True):
        size = (image.shape[1], image.shape[0])
        inside = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        blended[inside] = 0.6 * blended[inside] + 0.4 * np.array(PALETTE[category % len(PALETTE)])
    return blended.astype(np.uint8)


def _colored(
    labels: np.ndarray, colors: Sequence[tuple[int, int, int]], size: tuple[int, int]
) -> np.ndarray:
    table = np.array([*colors, BACKGROUND], dtype=np.uint8)
    known = (labels >= 0) & (labels < len(colors))
    picture = Image.fromarray(table[np.where(known, labels, len(colors))])
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))


def _dot(pen: Any, center: Sequence[float], color: tuple[int, int, int]) -> None:
    x, y = center
    pen.ellipse((x - 7, y - 7, x + 7, y + 7), fill=color, outline=BACKGROUND, width=2)
