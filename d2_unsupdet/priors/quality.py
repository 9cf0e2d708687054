"""How good stored boxes are, before anything is trained on them: counts, sizes, recall, a picture.

Recall needs labels and is of all objects without their classes; crowds do not count.
"""

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode
from PIL import Image, ImageDraw
from torchvision.ops import box_iou
from tqdm import tqdm

from d2_unsupdet.analysis.pictures import add_box, contact_sheet, fitted, titled
from d2_unsupdet.checkpoint.files import atomic_write, write_json
from d2_unsupdet.data.images import BadImage, image_size, read_image
from d2_unsupdet.errors import UserError
from d2_unsupdet.priors.found import Found
from d2_unsupdet.priors.generation import Generation
from d2_unsupdet.seeding import generator

IOUS = (0.5, 0.7)
FIRST = (10, 30, 100, 1000)  # boxes an image that recall is told of
SIZE_BINS = 10
Record = Mapping[str, Any]


def measure(
    generation: Generation, records: Sequence[Record], *, images: int = 2000, progress: bool = False
) -> dict[str, Any]:
    """Plain values: `images`, `boxes_an_image`, `sizes`, `recall` where there are labels.

    Args:
        generation: the boxes.
        records: the images; with annotations there is a recall.
        images: how many to look at, evenly spread; counts are of all.
        progress: draw a bar.
    """
    sizes, sampled = np.zeros(SIZE_BINS, np.int64), evenly(records, images)
    hits = np.zeros((len(IOUS), len(FIRST)), np.int64)
    objects = absent = 0
    for record in tqdm(sampled, unit="image", desc="quality", disable=not progress):
        found, size = find(generation, record)
        if found is None:
            absent += 1
            continue
        rng = generator("quality", os.fspath(record["file_name"]))
        boxes = found.drawn(rng).scaled(*size).boxes
        sizes += _size_histogram(boxes, size)
        truth = true_boxes(record)
        hits += covered(truth, boxes)
        objects += len(truth)
    if absent == len(sampled):
        raise UserError(
            f"{generation.folder} knows none of the {absent} images: is it of this data set, and "
            "does it have the right root?"
        )
    report: dict[str, Any] = {
        "sha256": generation.sha256,
        "settings": dict(generation.settings),
        "images": len(generation),
        "looked_at": len(sampled),
        "not_in_store": absent,
        "cannot_be_read": generation.manifest["bad"],
        "boxes_an_image": _counts(generation.counts()),
        "sizes": {"bins": "sqrt(area of the box / area of the image), ten of 0.1 each"},
    }
    report["sizes"]["share"] = (sizes / max(sizes.sum(), 1)).round(4).tolist()
    if objects:
        report["objects"] = objects
        shares = (hits / objects).round(4).tolist()
        report["recall"] = {
            f"IoU {iou}": dict(zip([f"first {n}" for n in FIRST], row, strict=True))
            for iou, row in zip(IOUS, shares, strict=True)
        }
    return report


def draw_sheet(
    generation: Generation, records: Sequence[Record], *, images: int = 12, boxes: int = 10
) -> np.ndarray:
    """The first boxes of some images: yellow, the very first one red; labels white where known."""
    panels = []
    for record in evenly(records, images):
        with suppress(BadImage):
            found, size = find(generation, record)
            if found is not None:
                panels.append(_panel(record, found.drawn(generator("sheet")), size, boxes))
    return contact_sheet(panels)


def write_report(
    generation: Generation, records: Sequence[Record], folder: Path, *, images: int = 2000
) -> dict[str, Any]:
    """`quality.json` and `contact_sheet.png` in a folder; returns the former."""
    report = measure(generation, records, images=images, progress=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "quality.json", report)
    png = io.BytesIO()
    Image.fromarray(draw_sheet(generation, records)).save(png, "PNG")
    atomic_write(folder / "contact_sheet.png", lambda file: file.write(png.getvalue()))
    return report


def summary(report: Mapping[str, Any]) -> str:
    """A few lines for a terminal."""
    counts = report["boxes_an_image"]
    bars = " ".join(f"{100 * share:.0f}" for share in report["sizes"]["share"])
    lines = [
        f"boxes an image: mean {counts['mean']}, median {counts['median']}, "
        f"{counts['least']} to {counts['most']}; {counts['without']:,} images without",
        f"size, per cent of the boxes in tenths of the image's side: {bars}",
    ]
    for iou, row in report.get("recall", {}).items():
        told = ", ".join(f"{name} {100 * value:.1f}" for name, value in row.items())
        lines.append(f"recall at {iou}, per cent of {report['objects']:,} objects: {told}")
    return "\n".join(lines)


def find(generation: Generation, record: Record) -> tuple[Found | None, tuple[int, int]]:
    """Normalised boxes and size; the file is asked where the record's size leads nowhere."""
    size = record.get("width") or 0, record.get("height") or 0
    found = generation.lookup(record, *size) if all(size) else None
    if found is None:
        with suppress(BadImage):
            size = image_size(record["file_name"])
            found = generation.lookup(record, *size)
    return found, size


def true_boxes(record: Record) -> np.ndarray:
    """(n, 4) XYXY of the labelled objects that are no crowds."""
    boxes = [
        BoxMode.convert(entry["bbox"], entry["bbox_mode"], BoxMode.XYXY_ABS)
        for entry in record.get("annotations", ())
        if not entry.get("iscrowd")
    ]
    return np.array(boxes, np.float32).reshape(-1, 4)


def evenly(records: Sequence[Record], most: int) -> list[Record]:
    """At most `most` of them, evenly spread."""
    if len(records) <= most:
        return list(records)
    return [records[i] for i in np.linspace(0, len(records) - 1, most).round().astype(int)]


def covered(truth: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(IoUs, FIRST): objects that some box among the first so many covers."""
    if not len(truth) or not len(boxes):
        return np.zeros((len(IOUS), len(FIRST)), np.int64)
    overlap = box_iou(torch.from_numpy(truth), torch.from_numpy(boxes)).nan_to_num().numpy()
    best = np.stack([overlap[:, :count].max(axis=1) for count in FIRST])
    return np.stack([(best >= iou).sum(axis=1) for iou in IOUS])


def _size_histogram(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    share = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / (size[0] * size[1])
    return np.histogram(np.sqrt(np.clip(share, 0, 1)), SIZE_BINS, (0, 1))[0]


def _counts(counts: np.ndarray) -> dict[str, Any]:
    if not len(counts):
        return {"mean": 0, "median": 0, "least": 0, "most": 0, "without": 0}
    return {
        "mean": round(float(counts.mean()), 1),
        "median": float(np.median(counts)),
        "least": int(counts.min()),
        "most": int(counts.max()),
        "without": int((counts == 0).sum()),
    }


def _panel(record: Record, found: Found, size: tuple[int, int], most: int) -> np.ndarray:
    image, scale = fitted(read_image(record["file_name"]), 240, 320)
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    for box in true_boxes(record) * scale:
        add_box(pen, box.tolist(), (255, 255, 255), 1)
    boxes = found.scaled(size[0] * scale, size[1] * scale).boxes[:most]
    for rank in reversed(range(len(boxes))):
        color = (255, 210, 0) if rank else (255, 60, 40)
        add_box(pen, boxes[rank].tolist(), color, 1 if rank else 2)
    name = os.path.basename(os.fspath(record["file_name"]))
    return titled(np.asarray(picture), f"{name}  {len(found)}")
