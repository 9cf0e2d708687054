"""The partial eigensolver against scipy's full generalised one, and graphs without a cut."""

import numpy as np
import pytest
import scipy.linalg

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import normalized_cut as module
from d2_unsupdet.priors.normalized_cut import affinity, cut_graph, normalized_cut


def scene(seed, height=14, width=20, channels=24, noise=1.0, parts=3):
    """Tokens of a background and a few rectangles, each with a mean of its own."""
    draw = np.random.default_rng(seed)
    labels = np.zeros((height, width), int)
    for part in range(1, parts + 1):
        top, left = draw.integers(0, height - 4), draw.integers(0, width - 4)
        labels[top : top + draw.integers(3, 9), left : left + draw.integers(3, 9)] = part
    means = draw.standard_normal((parts + 1, channels))
    tokens = means[labels.ravel()] + noise * draw.standard_normal((height * width, channels))
    return tokens.astype(np.float32)


def full_solution(graph):
    degree = graph.sum(1)
    values, vectors = scipy.linalg.eigh(np.diag(degree) - graph, np.diag(degree))
    vector = vectors[:, 1]
    foreground = vector > vector.mean()
    if not foreground[np.abs(vector).argmax()]:
        vector, foreground = -vector, ~foreground
    return vector, foreground, values[2] - values[1]


def test_masks_are_those_of_the_full_solver_wherever_the_gap_is_clear():
    compared = 0
    for seed in range(40):
        noise, tau = (0.3, 0.7, 1.2, 2.0)[seed % 4], (0.2, 0.0, 0.4)[seed % 3]
        graph = affinity(scene(seed, noise=noise), tau=tau, binary=seed % 5 > 0)
        vector, foreground, gap = full_solution(graph)
        cut = cut_graph(graph)
        assert cut.eigengap == pytest.approx(gap, abs=1e-7)
        if gap > 1e-3:
            compared += 1
            np.testing.assert_array_equal(cut.foreground, foreground)
            np.testing.assert_allclose(cut.vector, vector, atol=1e-7 * np.abs(vector).max() + 1e-9)
    assert compared > 20


def test_a_planted_block_is_found_exactly_whatever_the_size():
    for height, width in ((3, 4), (9, 11), (30, 38)):  # dense solver, partial solver
        inside = np.zeros((height, width), bool)
        inside[1 : height // 2 + 1, 1 : width // 2] = True
        tokens = np.where(inside.reshape(-1, 1), [[1.0, 0.0]], [[-0.3, 1.0]])
        cut = normalized_cut(tokens)
        np.testing.assert_array_equal(cut.foreground, inside.ravel())
        assert cut.foreground[cut.seed] and not cut.constant


def test_the_order_of_the_tokens_does_not_matter():
    tokens = scene(3)
    order = np.random.default_rng(0).permutation(len(tokens))
    whole, shuffled = normalized_cut(tokens), normalized_cut(tokens[order])
    np.testing.assert_array_equal(whole.foreground[order], shuffled.foreground)


def test_the_sign_of_the_solver_does_not_matter(monkeypatch):
    graph = affinity(scene(4))
    cut = cut_graph(graph)
    solver = module._smallest
    monkeypatch.setattr(module, "_smallest", lambda *a: (solver(*a)[0], -solver(*a)[1]))
    other = cut_graph(graph)
    np.testing.assert_array_equal(cut.vector, other.vector)
    np.testing.assert_array_equal(cut.foreground, other.foreground)
    assert cut.vector[cut.seed] > cut.vector.mean()


@pytest.mark.parametrize(
    "tokens", [np.ones((200, 8)), np.eye(200), np.zeros((5, 3)), np.ones((1, 4)), np.ones((0, 4))]
)
def test_a_constant_graph_has_no_foreground(tokens):
    cut = normalized_cut(tokens)
    assert cut.constant and not cut.foreground.any() and len(cut.vector) == len(tokens)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("rounding", [0.0, 1e-6])
def test_equal_tokens_are_constant_when_centred_too(scale, rounding):
    """What the mean leaves of them is rounding, which has no direction."""
    draw = np.random.default_rng(0)
    tokens = np.repeat(draw.standard_normal((1, 24)), 210, 0)
    tokens = scale * tokens * (1 + rounding * draw.standard_normal(tokens.shape))
    cut = normalized_cut(tokens.astype(np.float32), center=True)
    assert cut.constant and not cut.foreground.any()


def test_two_and_three_tokens():
    assert normalized_cut(np.eye(2)).constant  # one edge, one cut: nothing to choose
    cut = normalized_cut(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    assert len(set(cut.foreground[:2])) == 1 and cut.foreground[2] != cut.foreground[0]


def test_lonely_tokens_are_solved_too_and_the_same_each_time():
    """Many tokens joined to nothing: eigenvalues that plain Lanczos cannot tell apart."""
    draw = np.random.default_rng(1)
    tokens = np.zeros((240, 400), np.float32)
    tokens[:120, 0] = tokens[120:210, 1] = 1
    tokens[np.arange(210, 240), np.arange(210, 240)] = 1
    tokens += 0.01 * draw.standard_normal(tokens.shape).astype(np.float32)
    graph = affinity(tokens)
    first, second = cut_graph(graph), cut_graph(graph)
    np.testing.assert_array_equal(first.vector, second.vector)
    degree = graph.sum(1)
    values = scipy.linalg.eigh(np.diag(degree) - graph, np.diag(degree), eigvals_only=True)
    assert first.eigenvalue == pytest.approx(values[1], abs=1e-8)
    residual = (degree * first.vector - graph @ first.vector) - values[1] * degree * first.vector
    assert np.abs(residual).max() < 1e-6


def test_the_factorized_solver_agrees_with_lanczos(monkeypatch):
    graph = affinity(scene(7))
    cut = cut_graph(graph)
    monkeypatch.setattr(module, "MOST_RESTARTS", 0)

    def give_up(*_, **__):
        monkeypatch.undo()
        raise module.ArpackNoConvergence("", np.zeros(0), np.zeros((0, 0)))

    monkeypatch.setattr(module, "eigsh", give_up)
    other = cut_graph(graph)
    np.testing.assert_array_equal(cut.foreground, other.foreground)
    assert other.eigengap == pytest.approx(cut.eigengap, abs=1e-7)


def test_tokens_that_point_one_way_need_centring_or_a_quantile():
    tokens = scene(5, noise=0.3) + 20.0  # an encoder's common direction
    assert normalized_cut(tokens).constant
    plain = normalized_cut(scene(5, noise=0.3), center=True)
    np.testing.assert_array_equal(normalized_cut(tokens, center=True).foreground, plain.foreground)
    ranked = normalized_cut(tokens, quantile=0.5)
    assert not ranked.constant and 0 < ranked.foreground.mean() < 1
    graph = affinity(tokens, quantile=0.75)
    assert (graph == 1).mean() == pytest.approx(0.25, abs=0.01)


def test_bad_input_is_a_sentence():
    with pytest.raises(UserError, match=r"pass \(tokens, channels\)"):
        normalized_cut(np.zeros((2, 3, 4)))
    with pytest.raises(UserError, match="not finite"):
        normalized_cut(np.full((4, 2), np.nan))
