"""Dense attention against torch's own, the conditional kind against loops over heads."""

import pytest
import torch
from torch import nn

from d2_unsupdet.detectors.attention import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    DeformableCrossAttention,
    DenseCrossAttention,
    DenseSelfAttention,
    MultiHeadAttention,
    Step,
    attend,
)
from d2_unsupdet.detectors.deformable_attention import DeformableAttention
from d2_unsupdet.detectors.structures import Encoded

DIM, HEADS = 16, 4


def randomized(module):
    """Off its zero biases, in double."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module.double().eval()


def twin_of(attention):
    """torch's module with the same weights; it loads our state-dict as it is."""
    twin = nn.MultiheadAttention(attention.dim, attention.heads, batch_first=True).double().eval()
    twin.load_state_dict(attention.state_dict())
    return twin


def scene(*, tokens=6, queries=5):
    torch.manual_seed(3)
    padding = torch.zeros(2, tokens, dtype=torch.bool)
    padding[1, tokens - 2 :] = True
    encoded = Encoded(
        memory=torch.randn(2, tokens, DIM).double(),
        mask=padding,
        position=torch.randn(2, tokens, DIM).double(),
        shapes=[(2, tokens // 2)],
        valid_ratios=torch.tensor([[[1.0, 1.0]], [[2 / 3, 1.0]]]).double(),
    )
    blocked = torch.zeros(queries, queries, dtype=torch.bool)
    blocked[:2, 2:] = True
    blocked[4, 0] = True
    content, position, sine = (torch.randn(2, queries, DIM).double() for _ in range(3))
    return content, Step(encoded, position, sine, torch.rand(2, queries, 4).double(), blocked)


def softmax_loops(query, key, value, heads, mask=None, padding=None):
    """One score at a time; the scale is that of a head of the query."""
    result = torch.zeros(*query.shape[:2], value.shape[-1]).double()
    wide, narrow = query.shape[-1] // heads, value.shape[-1] // heads
    for b in range(query.shape[0]):
        for h in range(heads):
            where, out = slice(h * wide, (h + 1) * wide), slice(h * narrow, (h + 1) * narrow)
            for n in range(query.shape[1]):
                scores = torch.full((key.shape[1],), -torch.inf).double()
                for s in range(key.shape[1]):
                    hidden = mask is not None and mask[n, s]
                    if not hidden and not (padding is not None and padding[b, s]):
                        scores[s] = query[b, n, where] @ key[b, s, where] / wide**0.5
                result[b, n, out] = scores.softmax(0) @ value[b, :, out]
    return result


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_attend_is_softmax_over_what_may_be_seen(masked, padded):
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 16).double(), torch.randn(2, 5, 16).double()
    value = torch.randn(2, 5, 8).double()
    mask = torch.rand(3, 5) < 0.3 if masked else None
    padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool() if padded else None
    if mask is not None:
        mask[:, 0] = False
    found = attend(query, key, value, heads=4, mask=mask, padding=padding)
    torch.testing.assert_close(found, softmax_loops(query, key, value, 4, mask, padding))


def test_self_and_cross_attention_equal_torchs():
    content, step = scene()
    own = randomized(DenseSelfAttention(dim=DIM, heads=HEADS))
    placed = content + step.position
    expected = twin_of(own)(placed, placed, content, attn_mask=step.mask)[0]
    torch.testing.assert_close(own(content, step), expected)

    cross, encoded = randomized(DenseCrossAttention(dim=DIM, heads=HEADS)), step.encoded
    keys = encoded.memory + encoded.position
    expected = twin_of(cross)(placed, keys, encoded.memory, key_padding_mask=encoded.mask)[0]
    torch.testing.assert_close(cross(content, step), expected)


def test_one_product_for_query_and_key_changes_nothing():
    attention = randomized(MultiHeadAttention(dim=DIM, heads=HEADS))
    x, value = torch.randn(2, 3, DIM).double(), torch.randn(2, 3, DIM).double()
    torch.testing.assert_close(attention.mix(x, x, value), attention.mix(x, x.clone(), value))


def test_attention_weights_drop_out_in_training_only():
    attention = randomized(MultiHeadAttention(dim=DIM, heads=HEADS, dropout=0.5))
    x = torch.randn(1, 6, DIM).double()
    assert torch.equal(attention.mix(x, x, x), attention.mix(x, x, x))
    attention.train()
    runs = torch.stack([attention.mix(x, x, x) for _ in range(2000)])
    assert not torch.equal(runs[0], runs[1])
    # scaled up again, so the mean stays: each number within 5 of its standard errors
    error = runs.std(0) / len(runs) ** 0.5
    assert ((runs.mean(0) - attention.eval().mix(x, x, x)).abs() < 5 * error + 1e-9).all()


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_conditional_attention_drops_out_in_training_only(kind):
    made = ConditionalSelfAttention if kind == "self" else ConditionalCrossAttention
    attention = randomized(made(dim=DIM, heads=HEADS, dropout=0.5))
    content, step = scene()
    assert torch.equal(attention(content, step), attention(content, step))
    attention.train()
    assert not torch.equal(attention(content, step), attention(content, step))


def test_dense_attention_starts_as_one_stacked_matrix():
    attention = MultiHeadAttention(dim=256)
    bound = (6 / (3 * 256 + 256)) ** 0.5
    assert 0.99 * bound < attention.in_proj_weight.abs().max() <= bound
    assert not attention.in_proj_bias.any() and not attention.out_proj.bias.any()


def test_conditional_self_attention_adds_projected_places():
    attention = randomized(ConditionalSelfAttention(dim=DIM, heads=HEADS))
    content, step = scene()
    query = attention.query_content(content) + attention.query_position(step.position)
    key = attention.key_content(content) + attention.key_position(step.position)
    mixed = softmax_loops(query, key, attention.value(content), HEADS, step.mask)
    torch.testing.assert_close(attention(content, step), attention.out_proj(mixed))


@pytest.mark.parametrize("first", [True, False])
def test_conditional_cross_attention_adds_two_similarities(first):
    """A head's score is content . content + place . place, over the root of both widths."""
    attention = randomized(ConditionalCrossAttention(dim=DIM, heads=HEADS, first=first))
    assert (attention.query_position is not None) == first
    content, step = scene()
    encoded, width = step.encoded, DIM // HEADS
    query, key = attention.query_content(content), attention.key_content(encoded.memory)
    place_q, place_k = attention.query_sine(step.sine), attention.key_position(encoded.position)
    if first:
        query = query + attention.query_position(step.position)
        key = key + place_k
    value = attention.value(encoded.memory)
    mixed = torch.zeros_like(query)
    for h in range(HEADS):
        part = slice(h * width, (h + 1) * width)
        scores = query[..., part] @ key[..., part].transpose(1, 2)
        scores = scores + place_q[..., part] @ place_k[..., part].transpose(1, 2)
        scores = (scores / (2 * width) ** 0.5).masked_fill(encoded.mask[:, None], -torch.inf)
        mixed[..., part] = scores.softmax(-1) @ value[..., part]
    torch.testing.assert_close(attention(content, step), attention.out_proj(mixed))


@pytest.mark.parametrize("width", [2, 4])
def test_deformable_cross_attention_places_references_on_the_padded_levels(width):
    attention = randomized(DeformableCrossAttention(dim=DIM, heads=HEADS, levels=1, points=2))
    content, step = scene()
    step = Step(step.encoded, step.position, None, step.reference[..., :width], None)
    encoded = step.encoded
    placed = torch.zeros(2, 5, 1, width).double()
    for b in range(2):
        for n in range(5):
            for c in range(width):
                placed[b, n, 0, c] = step.reference[b, n, c] * encoded.valid_ratios[b, 0, c % 2]
    expected = DeformableAttention.forward(
        attention,
        content + step.position,
        placed,
        encoded.memory,
        encoded.shapes,
        encoded.mask,
    )
    torch.testing.assert_close(attention(content, step), expected)
