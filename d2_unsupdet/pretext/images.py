"""From a batch of paired samples to normalised tensors on the model's device."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2_unsupdet.errors import UserError

IMAGENET_MEAN = (123.675, 116.280, 103.530)  # RGB, 0-255
IMAGENET_STD = (58.395, 57.120, 57.375)


class ViewInput(nn.Module):
    """Stacks the views of a batch as they are (uint8), and normalises them where they are needed.

    Moving bytes instead of floats costs a quarter, between machine and device as between ranks::

        views = ViewInput(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
        first, second = views.stack(batch)  # each (batch, 3, s, s) uint8
        images = views(first)

    Args:
        mean: per channel, in the 0-255 range of the images (RGB).
        std: per channel, in the same range.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            column = torch.tensor(list(value), dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def stack(self, batch: Sequence[dict]) -> Tensor:
        """All views of the batch on the device: (views, batch, 3, s, s) uint8."""
        for sample in batch:
            if "views" not in sample:
                raise UserError(
                    f"The sample of image '{sample.get('image_id')}' has no 'views'; "
                    "pretraining needs the paired-view mapper in dataloader.train."
                )
        shapes = {tuple(sample["views"].shape) for sample in batch}
        if len(shapes) > 1:
            raise UserError(f"The views of one batch have several sizes: {sorted(shapes)}.")
        views = torch.stack([sample["views"] for sample in batch], dim=1)
        return views.to(self.device, non_blocking=True)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (batch, 3, s, s) to normalised float."""
        return (images.to(self.mean.dtype) - self.mean) / self.std
