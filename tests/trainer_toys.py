"""A model small enough to follow by hand, and a mapper that draws as Detectron2's do."""

import numpy as np
import torch
from torch import nn


class Regression(nn.Module):
    """Mean squared error of a linear map with a normalised input; records say what goes wrong."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1)
        )

    def forward(self, batch):
        x = torch.stack([sample["x"] for sample in batch])
        y = torch.stack([sample["y"] for sample in batch])
        losses = {"loss_mse": (self.layers(x).squeeze(1) - y).square().mean()}
        losses["loss_bad"] = (
            torch.stack([sample["bad"] for sample in batch]).sum() * losses["loss_mse"]
        )
        return losses


def noisy_mapper(record):
    """Draws from NumPy's global state, as Detectron2's augmentations do."""
    x = torch.from_numpy(record["x"] + 0.1 * np.random.randn(4)).float()
    bad = torch.tensor(float("nan") if record.get("poison") else 0.0)
    return {**record, "x": x, "y": torch.tensor(record["y"]), "bad": bad}
