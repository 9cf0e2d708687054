"""JPEG file to a sample of a box pretext: image or two views, boxes, crops in their colours.

One process, one thread; CPU time, so that other load on the machine hardly matters. The boxes are
given: what a source costs stands in docs/priors.md. Run: python benchmarks/box_mappers.py [--quick]
"""

import argparse
import os
import tempfile
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from PIL import Image
from two_views import photo  # of this folder

from d2_unsupdet.data import PriorMapper, SiamesePairMapper
from d2_unsupdet.priors import Found
from d2_unsupdet.seeding import seeded

WIDTH, HEIGHT = 640, 480
SHORT_EDGES = (320, 336, 352, 368, 400, 416, 432, 448, 464, 480)


class Boxes:
    """Boxes of all sizes, the same for every image."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        sides = np.exp(rng.uniform(np.log(24), np.log(400), (count, 2)))
        corners = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sides)
        self.boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)

    def __call__(self, record: object, pixels: object, rng: object) -> Found:
        return Found(self.boxes, np.ones(len(self.boxes), np.float32))


def mappers() -> dict[str, PriorMapper | SiamesePairMapper]:
    resize = T.ResizeShortestEdge(SHORT_EDGES, 600, "choice")
    flip = T.RandomFlip()
    return {
        "UP-DETR: image, 10 crops": PriorMapper(
            source=Boxes(10), augmentations=[resize], exactly=10
        ),
        "DETReg: image, 30 crops": PriorMapper(source=Boxes(30), augmentations=[flip, resize]),
        "  without crops": PriorMapper(source=Boxes(30), augmentations=[flip, resize], crop_size=0),
        "Siamese DETR: 2 views, 20 crops": SiamesePairMapper(source=Boxes(100)),
    }


def measure(mapper: PriorMapper | SiamesePairMapper, paths: list[str], rounds: int) -> float:
    """Median over rounds of CPU milliseconds a sample."""
    times = []
    for epoch in range(rounds + 1):  # the first one warms up
        start = time.process_time()
        for index, path in enumerate(paths):
            with seeded(0, epoch, index):
                mapper({"file_name": path, "image_id": index})
        times.append((time.process_time() - start) / len(paths))
    return 1000 * float(np.median(times[1:]))


def write_photos(folder: str, count: int) -> list[str]:
    rng = np.random.default_rng(0)
    paths = [os.path.join(folder, f"{i}.jpg") for i in range(count)]
    for path in paths:
        Image.fromarray(photo(rng, WIDTH, HEIGHT)).save(path, quality=90)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(folder, 4 if args.quick else 16)
        for name, mapper in mappers().items():
            print(f"{name:34}{measure(mapper, paths, 2 if args.quick else 5):7.1f} ms")


if __name__ == "__main__":
    main()
