"""JPEG file to two augmented views: ours against the MoCo v2 recipe of torchvision on PIL.

Both run in one process on one thread, in turns; what counts is CPU time, so that other load on the
machine hardly matters. Run: python benchmarks/two_views.py [--quick] [--images DIR]
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from d2_unsupdet.data.images import Decoded, ImageFile
from d2_unsupdet.data.mappers import PairedViewMapper

Job = Callable[[str], object]


def photo(rng: np.random.Generator, width: int = 500, height: int = 375) -> np.ndarray:
    """Noise with the spectrum of natural images and a few sharp-edged objects.

    Amplitudes fall with frequency to the power 1.15; at quality 90 a file has about 86 kB. Larger
    files lower the ratio, since decoding costs both pipelines the same: see --images.
    """
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    spectrum = np.hypot(fy, fx)
    spectrum[0, 0] = 1
    phases = rng.normal(size=(4, height, width)) + 1j * rng.normal(size=(4, height, width))
    layers = np.fft.ifft2(phases / spectrum**1.15).real
    layers /= layers.std(axis=(1, 2), keepdims=True)
    image = 120 + 42 * layers[0, ..., None] + 14 * np.moveaxis(layers[1:], 0, -1)
    for _ in range(6):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(20, 120)), int(rng.integers(20, 90)))
        mask = np.zeros((height, width), np.uint8)
        cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        image[mask > 0] = 0.5 * image[mask > 0] + rng.uniform(20, 130, 3)
    return (image + rng.normal(0, 2.3, image.shape)).clip(0, 255).astype(np.uint8)


def write_photos(folder: str, count: int) -> list[str]:
    rng = np.random.default_rng(0)
    paths = [os.path.join(folder, f"{i}.jpg") for i in range(count)]
    for path in paths:
        Image.fromarray(photo(rng)).save(path, quality=90)
    return paths


class PilBlur:
    """Blur with a radius drawn evenly; in PIL, the radius is the standard deviation."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def reference_views(*, floats: bool) -> Callable[[Image.Image], list[torch.Tensor]]:
    """Two views by torchvision on PIL: normalised floats as published, or uint8 as ours."""
    end = [
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([PilBlur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            *(end if floats else [transforms.PILToTensor()]),
        ]
    )
    return lambda image: [augment(image), augment(image)]


def decode_with_pil(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


class InMemory:
    """Stands for an image file whose pixels are already decoded."""

    def __init__(self, path: str) -> None:
        self.pixels = ImageFile(path).decode().pixels
        self.height, self.width = self.pixels.shape[:2]

    def decode(self, *, shrink: int = 1) -> Decoded:
        return Decoded(self.pixels)


def build_jobs(paths: Sequence[str]) -> dict[str, dict[str, Job]]:
    """For each pipeline: its decoding, its augmentation of decoded images, and the whole."""
    mapper = PairedViewMapper(size=224)
    pil = {path: decode_with_pil(path) for path in paths}
    ours = {path: InMemory(path) for path in paths}
    jobs: dict[str, dict[str, Job]] = {}
    for name, floats in (("torchvision on PIL, as published", True), ("same, uint8", False)):
        views = reference_views(floats=floats)
        jobs[name] = {
            "decode": decode_with_pil,
            "augment": lambda path, views=views: views(pil[path]),
            "total": lambda path, views=views: views(decode_with_pil(path)),
        }
    jobs["d2_unsupdet"] = {
        "decode": lambda path: ImageFile(path).decode(),
        "augment": lambda path: mapper.views_of(ours[path], np.random.randint(2**31)),
        "total": lambda path: mapper({"file_name": path, "image_id": path}),
    }
    return jobs


def measure(
    jobs: dict[str, dict[str, Job]], paths: Sequence[str], rounds: int
) -> dict[str, dict[str, float]]:
    """Median CPU milliseconds an image; every round runs every job once over all images."""
    times: dict[str, dict[str, list[float]]] = {
        n: {p: [] for p in parts} for n, parts in jobs.items()
    }
    for turn in range(rounds + 1):
        for name, parts in jobs.items():
            for part, job in parts.items():
                start = time.process_time()
                for path in paths:
                    job(path)
                if turn:  # the first round warms up
                    times[name][part].append((time.process_time() - start) / len(paths) * 1e3)
    return {
        name: {part: statistics.median(t) for part, t in parts.items()}
        for name, parts in times.items()
    }


def report(times: dict[str, dict[str, float]]) -> str:
    """A small table: milliseconds a pair, pairs a second, times faster."""
    lines = [f"{'CPU ms a pair':34}{'decode':>9}{'augment':>9}{'total':>9}{'pairs/s':>9}"]
    for name, t in times.items():
        parts = "".join(f"{t[part]:9.2f}" for part in ("decode", "augment", "total"))
        lines.append(f"{name:34}{parts}{1e3 / t['total']:9.0f}")
    ours = times["d2_unsupdet"]
    for name, t in times.items():
        if t is not ours:
            parts = "".join(
                f"{t[part] / ours[part]:8.1f}x" for part in ("decode", "augment", "total")
            )
            lines.append(f"{'ratio to ' + name:34}{parts}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=Path, help="a folder of JPEG files (default: drawn photos)"
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a first idea")
    args = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    count, rounds = (6, 5) if args.quick else (24, 15)
    with tempfile.TemporaryDirectory() as folder:
        if args.images:
            paths = sorted(str(p) for p in args.images.rglob("*.jp*g"))[:count]
        else:
            paths = write_photos(folder, count)
        if not paths:
            parser.error(f"no .jpg or .jpeg under {args.images}")
        kilobytes = statistics.mean(os.path.getsize(path) for path in paths) / 1e3
        print(
            f"{len(paths)} JPEG files of {kilobytes:.0f} kB on average, {rounds} rounds, one thread"
        )
        print(report(measure(build_jobs(paths), paths, rounds)))


if __name__ == "__main__":
    main()
