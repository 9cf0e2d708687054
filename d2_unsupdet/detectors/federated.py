"""Labels that are complete for some classes of an image only, as LVIS's (arXiv:2103.07461)."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from d2_unsupdet.detectors.transfer import to_device
from d2_unsupdet.errors import UserError

KEY = "model.criterion.federated"


class FederatedClasses(nn.Module):
    """Draws the classes that have a say on an image: those that it shows, and some others.

    Of an image of LVIS only a few of the 1,203 classes were searched for; the others may be in it
    without a label. Frequent classes are drawn oftener, being absent for certain where they are
    absent, and a class of a handful of images is hardly ever pushed down by all the others.

    Args:
        images: of each class, how many training images show it; "auto" counts the training data.
        sample: classes an image, those shown included. More are shown: all these.
        power: a class is drawn in proportion to `images ** power`.
    """

    weight: Tensor

    def __init__(
        self,
        *,
        images: Sequence[int] | Literal["auto"] = "auto",
        sample: int = 50,
        power: float = 0.5,
    ) -> None:
        super().__init__()
        if not isinstance(sample, int) or sample < 1:
            raise UserError(f"{KEY}.sample={sample} is no number of classes; the usual one is 50.")
        if not isinstance(power, (int, float)) or not 0 <= power < math.inf:
            raise UserError(f"{KEY}.power={power} is no power of at least 0; the usual one is 0.5.")
        self.sample, self.power = sample, power
        self.auto = images == "auto"
        self.register_buffer("weight", torch.empty(0), persistent=False)
        if not self.auto:
            self.weigh(images)

    def weigh(self, images: Any) -> None:
        """Set how many training images show each class."""
        if (
            not isinstance(images, Sequence)
            or not all(isinstance(n, int) and n >= 0 for n in images)
            or not any(images)
        ):
            raise UserError(
                f"{KEY}.images={images} is no list of numbers of images, one a class; set it to "
                "auto, to count the training data."
            )
        weight = torch.tensor(images, dtype=torch.float32, device=self.weight.device)
        # a class that no image shows stays out, with power 0 too
        self.weight = torch.where(weight > 0, weight.pow(self.power), 0)

    def forward(self, labels: Sequence[Tensor], classes: int) -> Tensor:
        """(B, K), whether each class has a say on an image, given the labels of each image."""
        if len(self.weight) != classes:
            raise UserError(
                f"{KEY}.images counts {len(self.weight)} classes, but the detector has {classes}; "
                "set it to auto, to count the training data."
            )
        device, every = self.weight.device, torch.cat(list(labels))
        image = [i for i, of_image in enumerate(labels) for _ in range(len(of_image))]
        index = to_device(image, device, torch.long), every
        shown = torch.zeros(len(labels), classes, dtype=torch.bool, device=device)
        shown.index_put_(index, torch.ones_like(every, dtype=torch.bool))
        # The largest of weight / exponential: draws without replacement, and nobody waits for them.
        chance = self.weight / torch.empty(shown.shape, device=device).exponential_()
        chance = chance.masked_fill(shown, torch.inf)
        drawn = chance.topk(min(self.sample, classes), dim=1).indices
        return torch.zeros_like(shown).scatter(1, drawn, True) & (chance > 0) | shown
