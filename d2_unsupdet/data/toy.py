"""The embedded data set: `toy_unlabeled`, `toy_train`, `toy_val`, drawn from a seed and cached.

Nothing is downloaded: scenes are drawn once (about 20 s a 2,000 images on two cores) and kept as
JPEG, COCO JSON and label maps. `toy_train:size=96:images=500:level=hard:seed=3` is a name too.
`python -m d2_unsupdet.data.toy --sheet sheet.png` draws an overview with boxes and masks.
"""

import json
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from d2_unsupdet.cli import Parser, run_tool
from d2_unsupdet.data.polygons import mask_to_polygons
from d2_unsupdet.data.scenes import CLASSES, LEVELS, SCENES_VERSION, Scene, draw_scene
from d2_unsupdet.errors import UserError, nearest

CACHE_VERSION = 1  # of the files, SCENES_VERSION is that of the pixels
JPEG_QUALITY = 92
SPLITS = {"unlabeled": 2000, "train": 2000, "val": 200}  # label subsets are drawn from toy_train


@dataclass(frozen=True, kw_only=True)
class ToySet:
    """Everything that decides the pixels of one split.

    Args:
        split: "unlabeled", "train" or "val"; they share no image.
        images: how many; image i does not depend on it.
        size: side in pixels.
        level: "easy", "mid" or "hard", see `scenes.LEVELS`.
        seed: another seed, other images.
    """

    split: str
    images: int
    size: int = 128
    level: str = "mid"
    seed: int = 0

    def folder(self) -> Path:
        """Where it is cached; the name holds every setting and both versions."""
        version = f"toy-v{SCENES_VERSION}.{CACHE_VERSION}"
        return (
            cache_root()
            / version
            / (f"{self.split}-{self.images}-{self.size}px-{self.level}-seed{self.seed}")
        )

    def draw(self, index: int) -> Scene:
        """Scene `index`, straight from the generator."""
        return draw_scene(
            seed=self.seed, split=self.split, index=index, size=self.size, level=self.level
        )


def cache_root() -> Path:
    """D2_UNSUPDET_CACHE, else d2_unsupdet in the user's cache folder."""
    if own := os.environ.get("D2_UNSUPDET_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "d2_unsupdet"


def parse(name: str) -> ToySet:
    """`toy_train` or `toy_train:size=96:images=500:level=hard:seed=3` -> `ToySet`."""
    head, *options = name.split(":")
    split = head.removeprefix("toy_").removeprefix("sem_seg_")
    if split not in SPLITS:
        raise UserError(f"No toy split is named '{head}'.{nearest(split, SPLITS)}")
    found = ToySet(split=split, images=SPLITS[split])
    for option in options:
        key, _, value = option.partition("=")
        if key == "level" and value in LEVELS:
            found = replace(found, level=value)
        elif key in ("images", "size", "seed") and value.isdigit():
            found = ToySet(**{**asdict(found), key: int(value)})
        else:
            raise UserError(
                f"The option '{option}' of '{name}' is not understood; known: size=<pixels>, "
                f"images=<count>, seed=<number>, level={'|'.join(LEVELS)}."
            )
    if found.images < 1 or found.size < 32:
        raise UserError(f"'{name}' asks for too little: at least 1 image of 32 pixels.")
    return found


def prepare(toy: ToySet, workers: int | None = None) -> Path:
    """Draw a split into the cache unless it is there; return its folder.

    Args:
        toy: what to draw.
        workers: processes; default the free cores, 0 = in this process.
    """
    folder = toy.folder()
    if folder.exists():  # renamed into place when whole, so existing means complete
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_suffix(".lock")):
        if folder.exists():
            return folder
        logging.getLogger(__name__).info("Drawing %d scenes into %s ...", toy.images, folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _write(toy, temporary, workers)
            os.chmod(temporary, 0o755)  # mkdtemp makes private folders
            _publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def read(name: str) -> list[dict]:
    """Records with boxes, polygons and `sem_seg_file_name`; `toy_unlabeled` has images only."""
    from d2_unsupdet.data.readers import read_coco

    toy = parse(name)
    folder = prepare(toy)
    records = read_coco(folder / "instances.json", folder / "images")
    for record in records:
        if toy.split == "unlabeled":
            del record["annotations"]
        else:
            record["sem_seg_file_name"] = str(folder / "labels" / f"{record['image_id']:06d}.png")
    return records


def _write(toy: ToySet, folder: Path, workers: int | None) -> None:
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    annotations: list[dict] = []
    for found in _in_parallel(partial(_write_one, toy, folder), toy.images, workers):
        for one in found:
            annotations.append({"id": len(annotations) + 1, **one})
    size = {"width": toy.size, "height": toy.size}
    images = [{"id": i, "file_name": _image_name(i), **size} for i in range(toy.images)]
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    info = {"description": "synthetic scenes", **asdict(toy), "version": SCENES_VERSION}
    content = {"info": info, "licenses": [], "images": images, "categories": categories}
    text = json.dumps({**content, "annotations": annotations}, separators=(",", ":"))
    (folder / "instances.json").write_text(text)


def _image_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _write_one(toy: ToySet, folder: Path, index: int) -> list[dict]:
    """Write image and label map; return the COCO annotations."""
    scene = toy.draw(index)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _encode(folder / "images" / _image_name(index), scene.image[..., ::-1], quality)
    if toy.split == "unlabeled":
        return []
    _encode(folder / "labels" / f"{index:06d}.png", scene.semantic(), [])
    return [
        {"image_id": index, "category_id": kind + 1, "iscrowd": 0, **_outline(scene, k + 1)}
        for k, kind in enumerate(scene.classes)
    ]


def _encode(path: Path, array: np.ndarray, options: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, np.ascontiguousarray(array), options)
    if not done:
        raise OSError(f"OpenCV could not encode {path}.")
    path.write_bytes(data.tobytes())


def _outline(scene: Scene, number: int) -> dict:
    """Box, area and polygons of the visible pixels of an object."""
    mask = scene.instances == number
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1, x0, x1 = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    polygons = mask_to_polygons(mask[y0:y1, x0:x1], (y0, x0))
    return {
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(mask.sum()),
        "segmentation": polygons,
    }


def _in_parallel(task: partial, count: int, workers: int | None) -> Iterator[list[dict]]:
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1, count // 50)
    if workers < 2 or multiprocessing.current_process().daemon:  # daemons may have no children
        yield from map(task, range(count))
        return
    # fork: the workers only run NumPy and an encoder, and a script needs no __main__ guard
    with (
        warnings.catch_warnings(),
        ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("fork"),
            initializer=cv2.setNumThreads,
            initargs=(0,),
        ) as pool,
    ):
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of fork beside threads
        yield from pool.map(task, range(count), chunksize=16)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process draw while the others wait; without file locks they all draw, no harm."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # some network file systems
            logging.getLogger(__name__).debug("no file lock on %s", path)
        yield


def _publish(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was first, with the same content
            raise


def contact_sheet(toy: ToySet, *, columns: int = 6, rows: int = 4, zoom: int = 2) -> np.ndarray:
    """An RGB overview: each scene with the tint of its masks, its boxes and its class names."""
    cells = [_annotated(toy.draw(i), zoom) for i in range(columns * rows)]
    return np.vstack([np.hstack(cells[r * columns : (r + 1) * columns]) for r in range(rows)])


def _annotated(scene: Scene, zoom: int) -> np.ndarray:
    colours = np.array([cv2.applyColorMap(np.array([[k * 30]], np.uint8), cv2.COLORMAP_HSV)[0, 0]
                        for k in range(8)])  # fmt: skip
    canvas = np.kron(scene.image, np.ones((zoom, zoom, 1), np.uint8))
    for k, kind in enumerate(scene.classes):
        found, colour = _outline(scene, k + 1), colours[kind].tolist()
        for polygon in found["segmentation"]:
            points = np.array(polygon).reshape(-1, 2) * zoom
            cv2.polylines(canvas, [points.astype(np.int32)], True, colour, 1)
        x, y, w, h = (v * zoom for v in found["bbox"])
        cv2.rectangle(canvas, (x, y), (x + w - 1, y + h - 1), (255, 255, 255), 1)
        place = (x, y - 3 if y > 12 else y + h + 9)
        cv2.putText(canvas, CLASSES[kind], place, cv2.FONT_HERSHEY_PLAIN, 0.8, (255, 255, 255))
    return cv2.copyMakeBorder(canvas, 1, 1, 1, 1, cv2.BORDER_CONSTANT)


def main(arguments: list[str] | None = None) -> None:
    """Draw the splits into the cache, or an overview into a file."""
    parser = Parser(prog="python -m d2_unsupdet.data.toy", description="The embedded data set.")
    parser.add_argument("names", nargs="*", default=["toy_unlabeled", "toy_train", "toy_val"])
    parser.add_argument("--sheet", metavar="FILE", help="draw an overview of the first name")
    options = parser.parse_args(arguments)
    toys = [parse(name) for name in options.names]
    if options.sheet:
        _encode(Path(options.sheet), contact_sheet(toys[0])[..., ::-1], [])
        return
    for toy in toys:
        print(prepare(toy))


if __name__ == "__main__":
    run_tool(main)
