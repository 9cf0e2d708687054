"""Eigen attention of a detector: planted features come back as a region at its place."""

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from torch import nn

from d2_unsupdet.analysis.eigen_pictures import Eigen, draw_eigen, eigen_attention
from d2_unsupdet.detectors import DETR
from d2_unsupdet.detectors.structures import Features
from d2_unsupdet.errors import UserError

BAR = 24


class Planted(DETR):
    """A backbone of stride 16 that sees two kinds of cells."""

    def __init__(self):
        nn.Module.__init__(self)

    def preprocess(self, batch):
        return ImageList.from_tensors([sample["image"].float() for sample in batch], 32)

    def features(self, images):
        rows, columns = images.tensor.shape[-2] // 16, images.tensor.shape[-1] // 16
        cells = torch.zeros(1, 8, rows, columns)
        cells[:, 0] = 1
        cells[:, :2, 2:5, 3:6] = torch.tensor([0.0, 1.0])[:, None, None]
        noise = torch.randn(cells.shape, generator=torch.Generator().manual_seed(0))
        sizes = torch.tensor(images.image_sizes)
        return Features([cells + 0.02 * noise], torch.zeros(1, 1, 1, dtype=torch.bool), sizes)


@pytest.mark.parametrize("height, width", [(128, 160), (120, 150)], ids=["whole", "padded"])
def test_a_planted_foreground_is_found_at_its_place(height, width):
    sample = {"image": torch.zeros(3, height, width, dtype=torch.uint8)}
    found = eigen_attention(Planted(), sample, place="backbone")
    assert found.stride == 16 and found.vector.shape == (8, 10)
    inside = np.zeros((8, 10), bool)
    inside[2:5, 3:6] = True
    assert found.vector[inside].min() > found.vector[~inside].max()
    assert found.boxes_xyxy.tolist() == [[48, 32, 96, 80]]


def test_other_models_and_levels_are_sentences():
    sample = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}
    with pytest.raises(UserError, match="Linear has no encoder to cut"):
        eigen_attention(nn.Linear(1, 1), sample)
    with pytest.raises(UserError, match="no level 1: the backbone has 0 to 0"):
        eigen_attention(Planted(), sample, place="backbone", level=1)


def test_the_picture_is_bright_where_the_vector_is_high():
    image = np.full((100, 200, 3), 128, np.uint8)
    vector = np.zeros((7, 13))
    vector[:, 8:] = 1.0  # cells of 16: from pixel 128 of 200; the last row and column reach out
    picture = draw_eigen(image, (100, 200), Eigen(vector, np.zeros((0, 4), np.float32), 16), "it")
    light = picture[BAR:].astype(int).sum(-1)
    assert picture.shape == (BAR + 160, 320, 3)
    edge = 128 / 200 * 320
    assert light[:, : int(edge) - 20].max() < light[:, int(edge) + 20 :].min()


def test_no_clear_cut_is_the_bare_image():
    image = np.full((320, 320, 3), 90, np.uint8)
    nothing = Eigen(None, np.zeros((0, 4), np.float32), 16)
    assert (draw_eigen(image, (320, 320), nothing, "it")[BAR:] == 90).all()
