"""Labels that are complete for some classes of an image only, as LVIS's (arXiv:2103.07461)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from d2_unsupdet.errors import UserError


class FederatedClasses(nn.Module):
    """Draws the classes that have a say in a step: those that its images show, and some others.

    Of an image of LVIS only a few of the 1,203 classes were searched for; the others may be in it
    without a label. Frequent classes are drawn oftener, being absent for certain where they are
    absent, and a class of a handful of images is hardly ever pushed down by all the others.

    Args:
        images: of each class, how many training images show it; "auto" counts the training data.
        sample: classes a step, those shown included. More are shown: all these.
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
        if sample < 1:
            raise UserError(
                f"model.criterion.federated.sample={sample} leaves no class to learn; "
                "the usual number is 50."
            )
        self.sample = sample
        shown = [] if isinstance(images, str) else list(images)
        weight = torch.tensor(shown, dtype=torch.float32)
        # a class that no image shows stays out, with power 0 too
        weight = torch.where(weight > 0, weight.pow(power), 0)
        self.register_buffer("weight", weight, persistent=False)  # the config has it

    def forward(self, labels: Tensor, classes: int) -> Tensor:
        """Whether each of `classes` has a say, given the labels of all objects of the step."""
        if len(self.weight) != classes:
            raise UserError(
                f"model.criterion.federated.images counts {len(self.weight)} classes, but the "
                f"detector has {classes}; set it to auto, to count the training data."
            )
        # The largest of weight / exponential: draws without replacement, and nobody waits for them.
        chance = self.weight / torch.empty_like(self.weight).exponential_()
        chance = chance.index_fill(0, labels, torch.inf)
        drawn = chance.topk(min(self.sample, classes)).indices
        heard = torch.zeros_like(chance, dtype=torch.bool).index_fill(0, drawn, True)
        return (heard & (chance > 0)).index_fill(0, labels, True)
