#!/usr/bin/env python
"""The normalised cut by a partial eigensolver against scipy's full generalised `eigh`.

python benchmarks/ncut.py                       # 900, 1,800 and 3,600 tokens: about two minutes
python benchmarks/ncut.py --images FOLDER       # graphs of photographs, from a random ResNet-18
python benchmarks/ncut.py --quick               # small graphs: only that it runs

Each graph is cut by both. A line a graph: eigengap, seconds, their ratio, tokens on which the masks
differ. Without a folder the graphs are planted: four objects on a background, and noise.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import scipy.linalg
import torch
from torchvision.models import resnet18

from d2_unsupdet.priors.normalized_cut import affinity, cut_graph

CLEAR = 1e-3  # eigengap from which the masks have to agree


def planted(side: int, seed: int, channels: int = 128) -> np.ndarray:
    """Tokens of a square image with four rectangles whose features differ."""
    draw = np.random.default_rng(seed)
    labels = np.zeros((side, side), int)
    for part in range(1, 5):
        top, left = draw.integers(0, side // 2, 2)
        high, wide = draw.integers(side // 8, side // 2, 2)
        labels[top : top + high, left : left + wide] = part
    means = draw.standard_normal((5, channels))
    noise = (0.5, 1.0, 1.5, 2.0)[seed % 4]
    tokens = means[labels.ravel()] + noise * draw.standard_normal((side * side, channels))
    return tokens.astype(np.float32)


def photographs(folder: Path, side: int, count: int) -> Iterator[np.ndarray]:
    """Tokens of images: the third stage of a random ResNet at stride 16, centred."""
    torch.manual_seed(0)
    network = resnet18().eval()
    body = torch.nn.Sequential(*list(network.children())[:-3])
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for file in files[:count]:
        pixels = cv2.resize(cv2.imread(str(file))[..., ::-1], (16 * side, 16 * side))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            tokens = body(image)[0].flatten(1).T.numpy()
        yield tokens - tokens.mean(0)


def full(graph: np.ndarray) -> tuple[np.ndarray, float]:
    """The foreground and the eigengap of the full solver, as TokenCut computes them."""
    degree = graph.sum(1)
    values, vectors = scipy.linalg.eigh(np.diag(degree) - graph, np.diag(degree))
    vector = vectors[:, 1]
    mask = vector > vector.mean()
    return (mask if mask[np.abs(vector).argmax()] else ~mask), float(values[2] - values[1])


def compare(tokens: np.ndarray) -> tuple[float, float, bool]:
    """(seconds of the full solver, of the partial one, whether the masks are as promised)."""
    start = time.perf_counter()
    graph = affinity(tokens)
    built = time.perf_counter() - start
    start = time.perf_counter()
    cut = cut_graph(graph)
    fast = time.perf_counter() - start
    start = time.perf_counter()
    mask, gap = full(graph)
    slow = time.perf_counter() - start
    wrong = int((mask != cut.foreground).sum())
    print(
        f"{len(graph):7d} {gap:10.2e} {built:8.3f} {slow:8.3f} {fast:8.4f} {slow / fast:7.1f}"
        f" {wrong:7d}"
    )
    return slow, fast, gap <= CLEAR or not wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[30, 42, 60])
    parser.add_argument("--graphs", type=int, default=4, help="of each size")
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--quick", action="store_true", help="two small graphs")
    options = parser.parse_args()
    sides, count = ([12, 20], 1) if options.quick else (options.sides, options.graphs)

    print(f"{torch.get_num_threads()} threads; seconds: graph, full solver, partial solver")
    titles = ("eigengap", "graph", "full", "partial", "ratio", "differ")
    print(" tokens {:>10} {:>8} {:>8} {:>8} {:>7} {:>7}".format(*titles))
    fine = True
    for side in sides:
        graphs = (
            photographs(options.images, side, count)
            if options.images
            else (planted(side, seed) for seed in range(count))
        )
        rows = [compare(tokens) for tokens in graphs]
        fine &= all(row[2] for row in rows)
        ratio = sum(row[0] for row in rows) / sum(row[1] for row in rows)
        print(f"{side * side:7d} tokens: {ratio:.1f} times as fast")
    if not fine:
        sys.exit(f"masks differ on a graph with an eigengap over {CLEAR:g}")


if __name__ == "__main__":
    main()
