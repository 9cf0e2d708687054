"""Encodings of cells and of coordinates against the definition, a number at a time."""

import math

import pytest
import torch

from d2_unsupdet.detectors import LearnedPosition, SinePosition
from d2_unsupdet.detectors.position import sine_embedding
from d2_unsupdet.errors import UserError


def waves(value, dim, temperature=10000.0):
    """sin and cos of 2 pi value in turns, slower with every pair."""
    result = []
    for channel in range(dim):
        phase = 2 * math.pi * value / temperature ** (2 * (channel // 2) / dim)
        result.append(math.cos(phase) if channel % 2 else math.sin(phase))
    return result


def cells(mask, dim, shift, temperature=10000.0):
    """A loop over the cells: running counts of unpadded ones, y before x."""
    batch, height, width = mask.shape
    result = torch.zeros(batch, height * width, dim)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                column, row = ~mask[b, :, j], ~mask[b, i]
                y = (int(column[: i + 1].sum()) - shift) / (int(column.sum()) + 1e-6)
                x = (int(row[: j + 1].sum()) - shift) / (int(row.sum()) + 1e-6)
                both = waves(y, dim // 2, temperature) + waves(x, dim // 2, temperature)
                result[b, i * width + j] = torch.tensor(both)
    return result


def padded_mask():
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[1, 2:] = True
    mask[1, :, 3:] = True
    return mask


@pytest.mark.parametrize(
    "half_cell, y, x",
    [
        (True, [1.0, 0.0, 0.9779, 0.2090], [0.8660, 0.5, 0.7876, 0.6162]),
        (False, [0.0, -1.0, 0.4088, -0.9126], [0.8660, -0.5, 0.9707, -0.2405]),
    ],
)
def test_first_cell_of_a_small_map_has_the_known_values(half_cell, y, x):
    position = SinePosition(dim=256, half_cell=half_cell)
    first = position(torch.zeros(1, 2, 3, dtype=torch.bool))[0, 0]
    torch.testing.assert_close(first[:4], torch.tensor(y), rtol=0, atol=1e-4)
    torch.testing.assert_close(first[128:132], torch.tensor(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("half_cell", [True, False])
@pytest.mark.parametrize("temperature", [10000.0, 20.0])
def test_cells_count_only_what_is_no_padding(half_cell, temperature):
    mask = padded_mask()
    position = SinePosition(dim=16, half_cell=half_cell, temperature=temperature)(mask)
    valid = ~mask.flatten(1)
    expected = cells(mask, 16, 0.5 if half_cell else 0.0, temperature)
    torch.testing.assert_close(position[valid], expected[valid], rtol=0, atol=2e-6)


@pytest.mark.parametrize("half_cell", [True, False])
def test_padding_does_not_move_the_cells(half_cell):
    position = SinePosition(dim=16, half_cell=half_cell)
    alone = position(torch.zeros(1, 2, 3, dtype=torch.bool))
    beside = position(padded_mask())[1].view(3, 4, 16)[:2, :3].flatten(0, 1)
    torch.testing.assert_close(alone[0], beside)


def test_cells_of_padding_are_finite():
    mask = padded_mask()
    assert torch.isfinite(SinePosition(dim=8, half_cell=True)(mask)).all()


def test_coordinates_keep_their_order():
    values = torch.tensor([[0.1, 0.9, 0.35, 0.0]]).double()
    embedded = sine_embedding(values, dim=6)
    expected = [w for value in values[0].tolist() for w in waves(value, 6)]
    assert embedded.shape == (1, 24)
    torch.testing.assert_close(embedded[0], torch.tensor(expected).double(), rtol=0, atol=1e-6)


def test_learned_position_is_column_then_row():
    learned = LearnedPosition(dim=8, size=5)
    found = learned(torch.zeros(2, 3, 4, dtype=torch.bool)).view(2, 3, 4, 8)
    for i in range(3):
        for j in range(4):
            expected = torch.cat([learned.col_embed.weight[j], learned.row_embed.weight[i]])
            assert torch.equal(found[0, i, j], expected) and torch.equal(found[1, i, j], expected)


def test_learned_position_starts_uniform():
    for table in LearnedPosition(dim=64, size=50).parameters():
        assert 0 <= table.min() < 0.01 and 0.99 < table.max() <= 1


def test_positions_refuse_what_they_cannot_encode():
    with pytest.raises(UserError, match="divisible by 4, not 6"):
        SinePosition(dim=6)
    learned = LearnedPosition(dim=8, size=5)
    assert learned(torch.zeros(1, 5, 5, dtype=torch.bool)).shape == (1, 25, 8)
    for size in ((6, 2), (2, 6)):
        with pytest.raises(UserError, match="5 rows and columns"):
            learned(torch.zeros(1, *size, dtype=torch.bool))
