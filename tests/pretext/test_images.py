"""Views are stacked as bytes and normalised by the ImageNet constants."""

import pytest
import torch

from d2_unsupdet.errors import UserError
from d2_unsupdet.pretext.images import ViewInput


def test_stack_order_and_known_value():
    views = ViewInput(mean=[1, 2, 3], std=[1, 2, 4])
    batch = [{"views": torch.full((2, 3, 1, 1), n, dtype=torch.uint8)} for n in (5, 7)]
    batch[1]["views"][1] = 9
    stacked = views.stack(batch)
    assert stacked.dtype == torch.uint8 and stacked.shape == (2, 2, 3, 1, 1)
    assert stacked[1, :, 0].flatten().tolist() == [5, 9]  # second views of both images
    assert views(stacked[0])[1].flatten().tolist() == [6.0, 2.5, 1.0]
    assert views.state_dict() == {}


def test_an_unpaired_batch_is_a_sentence():
    with pytest.raises(UserError, match="image '3' has no 'views'.*paired-view mapper"):
        ViewInput(mean=[0] * 3, std=[1] * 3).stack([{"image_id": 3, "image": torch.zeros(3, 4, 4)}])
