"""Colour operations against torchvision's, with equal parameters."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from d2_unsupdet.data.photometric import OPERATIONS, Operation, Photometric


def natural(seed: int = 0, side: int = 160) -> np.ndarray:
    """Smooth colours with texture and edges, filling the whole range."""
    rng = np.random.default_rng(seed)
    image = sum(
        cv2.resize(rng.normal(size=(n, n, 3)), (side, side), interpolation=cv2.INTER_CUBIC) / n**0.5
        for n in (3, 8, 20, 80)
    )
    image[40:90, 30:120] += rng.normal(size=3)
    low, high = image.min(), image.max()
    return ((image - low) / (high - low) * 255).astype(np.uint8)


def noise(seed: int = 0, side: int = 160) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def saturated(seed: int = 0, side: int = 160) -> np.ndarray:
    """Pure black, white and primary colours: where clipping happens."""
    return np.random.default_rng(seed).integers(0, 2, (side, side, 3), dtype=np.uint8) * np.uint8(
        255
    )


def reference(name: str, image: np.ndarray, value: float) -> np.ndarray:
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    if name == "grayscale":
        out = F.rgb_to_grayscale(tensor, num_output_channels=3)
    elif name == "blur":
        out = F.gaussian_blur(tensor, [23, 23], [value, value])
    else:
        out = getattr(F, f"adjust_{name}")(tensor, value)
    return out.permute(1, 2, 0).numpy()


CASES = [
    *[(name, f) for name in ("brightness", "contrast", "saturation") for f in (0.6, 0.85, 1, 1.4)],
    *[("hue", shift) for shift in (-0.1, -0.03, 0.0, 0.04, 0.1, 0.5, -0.5)],
    ("grayscale", 1.0),
    *[("blur", sigma) for sigma in (0.1, 0.5, 1.0, 1.5, 2.0)],
]


@pytest.mark.parametrize("make", [natural, noise, saturated])
@pytest.mark.parametrize("name, value", CASES)
def test_operation_equals_torchvision(name, value, make):
    image = make()
    ours = OPERATIONS[name](image.copy(), value)
    difference = np.abs(ours.astype(int) - reference(name, image, value))
    assert ours.dtype == np.uint8 and ours.shape == image.shape
    assert difference.mean() <= (4 if name == "hue" else 2)
    if name in ("brightness", "contrast", "saturation", "grayscale"):
        assert difference.max() <= 2


def test_blur_value_is_a_standard_deviation():
    image = np.zeros((41, 41, 3), np.uint8)
    image[:, 20:] = 255
    for sigma in (0.7, 1.3, 2.0):
        edge = np.diff(OPERATIONS["blur"](image, sigma)[20, :, 0].astype(float))
        x = np.arange(40) - (edge * np.arange(40)).sum() / edge.sum()
        assert (edge * x**2).sum() / edge.sum() == pytest.approx(sigma**2, rel=0.1)


def test_apply_leaves_the_input_alone():
    image = natural()
    for name, value in CASES:
        before = image.copy()
        OPERATIONS[name](image, value)
        assert (image == before).all()


def test_operations_are_applied_in_the_order_given():
    image = natural()
    chain = [Operation("contrast", 1.4), Operation("hue", 0.1), Operation("brightness", 0.6)]
    expected = image
    for name, value in chain:
        expected = OPERATIONS[name](expected, value)
    assert (Photometric.apply(image, chain) == expected).all()
    assert (Photometric.apply(image, chain[::-1]) != expected).any()


def test_draws_follow_the_recipe():
    rng = np.random.default_rng(0)
    draws = [Photometric().draw(rng) for _ in range(4000)]
    names = [[operation.name for operation in draw] for draw in draws]
    chances = {n: sum(n in draw for draw in names) / len(draws) for n in OPERATIONS}
    assert chances["hue"] == pytest.approx(0.8, abs=0.03)
    assert chances["grayscale"] == pytest.approx(0.2, abs=0.03)
    assert chances["blur"] == pytest.approx(0.5, abs=0.03)
    values = {n: [o.value for draw in draws for o in draw if o.name == n] for n in OPERATIONS}
    assert 0.6 <= min(values["contrast"]) < 0.62 and 1.38 < max(values["contrast"]) <= 1.4
    assert -0.1 <= min(values["hue"]) < -0.09 and 0.09 < max(values["hue"]) <= 0.1
    assert 0.1 <= min(values["blur"]) < 0.2 and 1.9 < max(values["blur"]) <= 2.0
    orders = {tuple(draw[:4]) for draw in names if "hue" in draw}
    assert len(orders) == 24  # every order of the four
    assert all(draw[-1] == "blur" for draw in names if "blur" in draw)


def test_switched_off_operations_are_never_drawn():
    quiet = Photometric(jitter=0, grayscale=0, blur=0)
    rng = np.random.default_rng(0)
    assert all(quiet.draw(rng) == [] for _ in range(100))
