"""Synthetic scenes of textured shapes: the pictures of the embedded data set.

Integer (fixed-point) arithmetic throughout, and only NumPy's frozen legacy random stream: the same
(seed, split, index, size, level) gives the same pixels on every machine and every library version.
`SCENES_VERSION` changes whenever a pixel does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from d2_unsupdet.seeding import derive_seed

SCENES_VERSION = 1
CLASSES = ("circle", "square", "triangle", "star", "ring", "cross", "hexagon", "ellipse")

ONE = 256  # fixed point: one pixel, one unit of opacity or of illumination
_SUB = 4  # samples along each side of a pixel when a shape is rasterised
_TURN = 1024  # a full turn in angle steps; also the fixed-point unit of a direction


@dataclass(frozen=True, kw_only=True)
class Level:
    """How hard the scenes are, in grey levels (0-255) and per cent.

    Args:
        background_noise: half-range of the noise on the background.
        object_noise: half-range of the noise on an object.
        stripes: largest amplitude of stripes.
        distractors: per cent of images with blurred polygons in the background.
        contrast: least difference between mean object and mean background in the best channel.
    """

    background_noise: int
    object_noise: int
    stripes: int
    distractors: int
    contrast: int


LEVELS = {
    "easy": Level(background_noise=6, object_noise=6, stripes=15, distractors=15, contrast=70),
    "mid": Level(background_noise=16, object_noise=14, stripes=30, distractors=50, contrast=35),
    "hard": Level(background_noise=26, object_noise=22, stripes=40, distractors=90, contrast=15),
}


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture and its exact labels.

    Args:
        image: uint8 RGB, (size, size, 3).
        instances: uint8 (size, size); 0 = background, k = visible pixels of object k.
        classes: index into `CLASSES` of object 1, 2, ...
    """

    image: np.ndarray
    instances: np.ndarray
    classes: tuple[int, ...]

    def semantic(self) -> np.ndarray:
        """The class map: 0 = background, 1 + class elsewhere."""
        lookup = np.array([0] + [1 + c for c in self.classes], np.uint8)
        return lookup[self.instances]


class Draws:
    """Random integers from NumPy's legacy generator, whose stream is frozen for good."""

    def __init__(self, *position: int | str) -> None:
        seed = derive_seed(*position)
        self._state = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])

    def integer(self, low: int, high: int) -> int:
        """Uniform in low..high, both included."""
        return int(self._state.randint(low, high + 1))

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        """As `integer`, in an int32 array."""
        return self._state.randint(low, high + 1, size=shape).astype(np.int32)

    def chance(self, percent: int) -> bool:
        """True in `percent` of 100 draws."""
        return self.integer(0, 99) < percent

    def direction(self) -> tuple[int, int]:
        """A random (cos, sin) in units of 1 / 1024."""
        return direction(self.integer(0, _TURN - 1))

    def gaussian(self, shape: tuple[int, ...], sigma: int) -> np.ndarray:
        """Nearly normal integers: the sum of four bytes (deviation 147.8), rescaled."""
        raw = np.frombuffer(self._state.bytes(4 * math.prod(shape)), np.uint8)
        total = raw.reshape(4, *shape).sum(0, dtype=np.int32) - 510
        return (total * (sigma * 4096 * 10 // 1478)) >> 12


def direction(step: int) -> tuple[int, int]:
    """(cos, sin) of `step` / 1024 turns, in units of 1 / 1024."""
    angle = 2 * math.pi * step / _TURN
    return round(math.cos(angle) * _TURN), round(math.sin(angle) * _TURN)


def draw_scene(*, seed: int, split: str, index: int, size: int = 128, level: str = "mid") -> Scene:
    """Draw image `index` of a split; a pure function of its arguments."""
    draws = Draws("scene", SCENES_VERSION, seed, split, index, size)
    look = LEVELS[level]
    canvas = _background(draws, size, look)
    instances = np.zeros((size, size), np.uint8)
    classes: list[int] = []
    areas: list[int] = []
    for _ in range(draws.integer(1, 6)):
        kind = draws.integer(0, len(CLASSES) - 1)
        opacity = _shape_opacity(draws, CLASSES[kind], size)
        corner = _find_place(draws, opacity > ONE // 2, instances, areas)
        if corner is None:
            continue
        _paint(draws, canvas, opacity, corner, look)
        window = _window(corner, opacity.shape)
        classes.append(kind)
        areas.append(int((opacity > ONE // 2).sum()))
        instances[window][opacity > ONE // 2] = len(classes)
    image = _light_and_sensor(draws, canvas)
    return Scene(image, instances, tuple(classes))


def upsample(grid: np.ndarray, cell: int, shape: tuple[int, int]) -> np.ndarray:
    """Linear interpolation of a coarse (gh, gw, c) grid to `shape`, a node every `cell` pixels."""
    for axis, length in enumerate(shape):
        position = np.arange(length, dtype=np.int32) * ONE // cell
        first, weight = position >> 8, position & 255
        weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        low, high = np.take(grid, first, axis), np.take(grid, first + 1, axis)
        grid = (low * (ONE - weight) + high * weight) >> 8
    return grid


def _noise(
    draws: Draws, shape: tuple[int, int], cell: int, amplitude: int, channels: int
) -> np.ndarray:
    nodes = tuple(length // cell + 2 for length in shape)
    return upsample(draws.integers(-amplitude, amplitude, (*nodes, channels)), cell, shape)


def _project(shape: tuple[int, int], along: tuple[int, int]) -> np.ndarray:
    """Position along a direction, in 1 / 1024 pixel, (h, w)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (x * along[0] + y * along[1]).astype(np.int32)


def _ramp(shape: tuple[int, int], along: tuple[int, int]) -> np.ndarray:
    """0 to 256 across the image in a direction, (h, w, 1)."""
    position = _project(shape, along)
    position -= position.min()
    return (position * ONE // max(int(position.max()), 1))[..., None]


def _stripes(
    draws: Draws, shape: tuple[int, int], periods: tuple[int, int], amplitude: int
) -> np.ndarray:
    """A triangle wave of -amplitude to amplitude, (h, w, 1)."""
    period = draws.integer(*periods) * _TURN
    phase = (_project(shape, draws.direction()) + draws.integer(0, period)) % period
    wave = np.abs(phase - period // 2) * 4 - period
    return (wave * amplitude // period)[..., None]


def _background(draws: Draws, size: int, look: Level) -> np.ndarray:
    shape = (size, size)
    start, end = draws.integers(30, 225, (3,)), draws.integers(30, 225, (3,))
    canvas = start + ((end - start) * _ramp(shape, draws.direction()) >> 8)
    if draws.chance(look.distractors):
        for _ in range(draws.integer(1, 4)):
            _add_distractor(draws, canvas)
    for cell in (2, 4, 8, 16, 32):
        cell = max(1, cell * size // 128)
        canvas += _noise(draws, shape, cell, look.background_noise, 3 if cell >= 8 else 1)
    if draws.chance(50):
        amplitude = draws.integer(look.stripes // 4, look.stripes)
        canvas += _stripes(draws, shape, (max(3, size // 32), max(4, size // 5)), amplitude)
    return canvas


def _add_distractor(draws: Draws, canvas: np.ndarray) -> None:
    """Tint a random polygon; drawn on a coarse grid and interpolated, so that it has no edge."""
    size = canvas.shape[0]
    cell = max(2, draws.integer(4, 8) * size // 128)
    nodes = size // cell + 2
    corners = draws.integer(3, 7)
    turns = np.sort(draws.integers(0, _TURN - 1, (corners,)))
    radius = draws.integer(nodes * ONE // 10, nodes * ONE // 3)
    centre = draws.integers(0, nodes * ONE, (2,))
    outline = np.array([direction(int(t)) for t in turns]) * radius // _TURN + centre
    mask = coverage([outline], nodes, nodes)
    tint = draws.integers(-60, 60, (3,))
    canvas += upsample(mask[..., None], cell, canvas.shape[:2]) * tint >> 8


def _light_and_sensor(draws: Draws, canvas: np.ndarray) -> np.ndarray:
    """Illumination gradient (half of the images), a soft-edged shadow (a third), sensor noise."""
    shape = canvas.shape[:2]
    if draws.chance(50):
        canvas = canvas * (
            ONE + 40 - draws.integer(40, 110) * _ramp(shape, draws.direction()) // ONE
        )
        canvas >>= 8
    if draws.chance(33):
        edge, slope = draws.integer(64, 192), draws.integer(6, 24)
        side = np.clip((_ramp(shape, draws.direction()) - edge) * slope, 0, ONE)
        canvas = canvas * (ONE - (side * draws.integer(50, 110) >> 8)) >> 8
    noise = draws.gaussian(canvas.shape, draws.integer(2, 8))
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)


def coverage(outlines: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Opacity 0-256 of even-odd filled outlines, (height, width) int32.

    An outline holds (x, y) corners in 1 / 256 pixel. Each edge toggles the samples to its right.
    """
    step = ONE // _SUB
    rows = np.arange(height * _SUB) * step + step // 2
    stride = width * _SUB + 1
    toggles = np.zeros(height * _SUB * stride, np.int64)
    for outline in outlines:
        (x0, y0), (x1, y1) = outline.T.astype(np.int64), np.roll(outline, -1, 0).T.astype(np.int64)
        edge, row = np.nonzero((y0[:, None] <= rows) != (y1[:, None] <= rows))
        x = x0[edge] + (rows[row] - y0[edge]) * (x1 - x0)[edge] // (y1 - y0)[edge]
        column = np.clip((x + step // 2) // step, 0, stride - 1)
        toggles += np.bincount(row * stride + column, minlength=len(toggles))
    inside = np.cumsum(toggles.reshape(-1, stride), axis=1)[:, :-1] & 1
    samples = inside.reshape(height, _SUB, width, _SUB).sum((1, 3))
    return (samples * (ONE // _SUB**2)).astype(np.int32)


def _polygon(corners: int, *, radii: tuple[int, ...] = (_TURN,), start: int = 0) -> np.ndarray:
    """A polygon around the origin whose corners take turns in `radii` (1 / 1024)."""
    steps = [direction(start + k * _TURN // corners) for k in range(corners)]
    return np.array(
        [(c * radii[k % len(radii)] // _TURN, s * radii[k % len(radii)] // _TURN)
         for k, (c, s) in enumerate(steps)]
    )  # fmt: skip


def _ring(draws: Draws) -> list[np.ndarray]:
    return [_polygon(64), _polygon(64, radii=(draws.integer(500, 650),))]


def _cross(draws: Draws) -> list[np.ndarray]:
    a, b = _TURN, draws.integer(280, 400)
    right = [(a, -b), (a, b), (b, b)]
    arms = [right, [(-y, x) for x, y in right], [(-x, -y) for x, y in right]]
    arms.append([(y, -x) for x, y in right])
    return [np.array([corner for arm in arms for corner in arm])]


def _ellipse(draws: Draws) -> list[np.ndarray]:
    return [_polygon(64) * np.array([_TURN, draws.integer(410, 665)]) // _TURN]  # aspect .4-.65


_OUTLINES: dict[str, Callable[[Draws], list[np.ndarray]]] = {
    "circle": lambda draws: [_polygon(64)],
    "square": lambda draws: [_polygon(4)],
    "triangle": lambda draws: [_polygon(3)],
    "star": lambda draws: [_polygon(10, radii=(_TURN, 430))],
    "ring": _ring,
    "cross": _cross,
    "hexagon": lambda draws: [_polygon(6)],
    "ellipse": _ellipse,
}


def draw_side(draws: Draws, size: int) -> int:
    """Longer side of an object's box in 1 / 256 pixel: log-uniform.

    Nine of ten between 10 and 60 % of the image, one of ten between 3 and 10 %.
    """
    low, high = (0.03, 0.10) if draws.chance(10) else (0.10, 0.60)
    return round(size * ONE * low * (high / low) ** (draws.integer(0, 1000) / 1000))


def _shape_opacity(draws: Draws, name: str, size: int) -> np.ndarray:
    """A shape of random side and rotation in the smallest window that holds it."""
    side = draw_side(draws, size)
    cos, sin = draws.direction()
    turn = np.array([[cos, sin], [-sin, cos]])
    outlines = [outline @ turn for outline in _OUTLINES[name](draws)]
    low, high = outlines[0].min(0), outlines[0].max(0)
    longest = int((high - low).max())
    shift = draws.integers(0, ONE - 1, (2,))  # where it falls between the pixels
    placed = [(outline - low) * side // longest + shift for outline in outlines]
    width, height = ((placed[0].max(0) + ONE - 1) // ONE).tolist()
    return coverage(placed, min(height, size), min(width, size))


def _window(corner: tuple[int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    return slice(corner[0], corner[0] + shape[0]), slice(corner[1], corner[1] + shape[1])


def _find_place(
    draws: Draws, mask: np.ndarray, instances: np.ndarray, areas: list[int]
) -> tuple[int, int] | None:
    """A corner where the new object covers at most 35 % of the smaller one of each pair.

    Every object keeps at least half of its pixels; after 12 tries the object is left out.
    """
    size, own = instances.shape[0], int(mask.sum())
    visible = np.bincount(instances.ravel(), minlength=len(areas) + 1)[1:]
    full = np.array(areas, np.int64)
    for _ in range(12):
        corner = draws.integer(0, size - mask.shape[0]), draws.integer(0, size - mask.shape[1])
        under = instances[_window(corner, mask.shape)][mask]
        covered = np.bincount(under, minlength=len(areas) + 1)[1:]
        limit = np.minimum(full, own) * 35 // 100
        if own and (covered <= limit).all() and ((visible - covered) * 2 >= full).all():
            return corner
    return None


def _paint(
    draws: Draws, canvas: np.ndarray, opacity: np.ndarray, corner: tuple[int, int], look: Level
) -> None:
    if draws.chance(30):
        _cast_shadow(draws, canvas, opacity, corner)
    patch = canvas[_window(corner, opacity.shape)]
    shape = patch.shape[:2]
    behind = patch.sum((0, 1), dtype=np.int64) // (shape[0] * shape[1])
    texture = _base_colour(draws, behind, look.contrast)
    texture = np.broadcast_to(texture, patch.shape).astype(np.int32)
    if draws.chance(40):
        change = draws.integers(-50, 50, (3,))
        texture = texture + (change * (_ramp(shape, draws.direction()) - ONE // 2) >> 8)
    if draws.chance(80):
        for _ in range(2):
            channels = 1 if draws.chance(50) else 3
            texture = texture + _noise(
                draws, shape, draws.integer(1, 8), look.object_noise, channels
            )
    if draws.chance(40):
        amplitude = draws.integer(look.stripes // 3, look.stripes)
        texture = texture + _stripes(draws, shape, (3, max(4, max(shape) // 2)), amplitude)
    patch += (texture - patch) * opacity[..., None] >> 8


def _base_colour(draws: Draws, behind: np.ndarray, contrast: int) -> np.ndarray:
    for _ in range(20):
        colour = draws.integers(20, 235, (3,))
        if np.abs(colour - behind).max() >= contrast:
            return colour
    return ((behind + 128) % 256).astype(np.int32)


def _cast_shadow(
    draws: Draws, canvas: np.ndarray, opacity: np.ndarray, corner: tuple[int, int]
) -> None:
    """Darken a blurred, shifted copy of the shape."""
    size, reach = canvas.shape[0], max(2, max(opacity.shape) // 8)
    cos, sin = draws.direction()
    shade = np.zeros((size + 2 * reach, size + 2 * reach), np.int32)
    moved = corner[0] + reach + reach * sin // _TURN, corner[1] + reach + reach * cos // _TURN
    shade[_window(moved, opacity.shape)] = opacity
    half = reach // 2
    for axis in (0, 1):  # box blur of 2 * half + 1 pixels
        total = sum(np.roll(shade, k, axis) for k in range(-half, half + 1))
        shade = total // (2 * half + 1)
    shade = shade[reach : reach + size, reach : reach + size, None]
    canvas *= ONE - (shade * draws.integer(60, 130) >> 8)
    canvas >>= 8
