"""A trainer around a model small enough to follow by hand."""

import numpy as np
import pytest
import torch

from d2_unsupdet.data.loader import build_train_loader
from d2_unsupdet.engine.trainer import Trainer
from tests.trainer_toys import Regression, noisy_mapper


@pytest.fixture
def records():
    random = np.random.default_rng(0)
    return [
        {"x": random.normal(size=4), "y": float(i % 5), "file_name": f"{i}.jpg"} for i in range(23)
    ]


@pytest.fixture
def make_trainer(records):
    def make(
        *, batch=6, seed=0, workers=0, model=None, lr=0.1, mapper=noisy_mapper, length=20, **options
    ):
        torch.manual_seed(1)
        model = model or Regression()
        loader = build_train_loader(
            dataset=records,
            mapper=mapper,
            total_batch_size=batch,
            seed=seed,
            num_workers=workers,
        )
        return Trainer(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
            loader=loader,
            multiplier=lambda progress: 1.0 - 0.5 * progress,
            length=length,
            seed=seed,
            **options,
        )

    return make
