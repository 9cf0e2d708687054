"""The normalised cut of a token graph (Shi and Malik 2000, as TokenCut arXiv:2202.11539 uses it).

Two tokens are joined by a strong edge if their cosine exceeds `tau`, by a weak one otherwise. Only
one eigenvector is wanted, so a partial solver finds it: tens of products with the graph in place of
a full decomposition. The surprise: an eigenvector has no sign, so a rule chooses the foreground.
"""

import logging
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from d2_unsupdet.errors import UserError

SMALL = 96  # tokens up to which the dense solver takes about a millisecond
TOLERANCE = 1e-10  # of an eigenvalue: a vector's error is about this over its eigengap
MOST_VECTORS = 20  # of the Krylov basis: photographs need about as many products in all
MOST_RESTARTS = 20
ROUNDING = 1e-5  # of a token's length: float32 through a network's layers
SAMPLED = 2**20  # cosines from which a quantile is taken

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """A graph cut in two.

    Args:
        vector: (n,) second generalised eigenvector x, positive at the seed; x' D x = 1 as in scipy.
        foreground: (n,) bool.
        seed: the token that stands out most; it is foreground.
        eigenvalue: of `vector`; 0 in a constant graph.
        eigengap: to the third eigenvalue: below about 1e-3 other vectors cut as well.
        constant: all edges are equal, so every cut is as good: no token is foreground.
    """

    vector: np.ndarray
    foreground: np.ndarray
    seed: int
    eigenvalue: float
    eigengap: float
    constant: bool = False


def normalized_cut(
    features: np.ndarray,
    *,
    tau: float = 0.2,
    eps: float = 1e-5,
    binary: bool = True,
    center: bool = False,
    quantile: float | None = None,
) -> Cut:
    """The two-part cut of tokens that agree inside a part and not across.

    >>> cut = normalized_cut(features)             # (n, channels), no padding among them
    >>> mask = cut.foreground.reshape(h, w)

    Args:
        features: (n, channels) tokens.
        tau: cosine above which an edge is strong.
        eps: weight of a weak edge; keeps the graph in one piece.
        binary: strong edges weigh 1; False gives them their cosine.
        center: subtract the mean token first; an encoder's tokens mostly point the same way.
        quantile: replaces `tau` by this quantile of the cosines, for features of unknown spread.
    """
    tokens = _checked(features)
    if len(tokens) == 0:
        nothing = np.zeros(0)
        return Cut(nothing, nothing.astype(bool), 0, 0.0, 0.0, constant=True)
    graph = affinity(tokens, tau=tau, eps=eps, binary=binary, center=center, quantile=quantile)
    return cut_graph(graph)


def affinity(
    features: np.ndarray,
    *,
    tau: float = 0.2,
    eps: float = 1e-5,
    binary: bool = True,
    center: bool = False,
    quantile: float | None = None,
) -> np.ndarray:
    """The graph's edge weights (n, n), float64; arguments as of `normalized_cut`."""
    tokens = np.asarray(features, np.float32)
    least = 1e-12
    if center:
        # What rounding leaves of equal tokens has no direction.
        least = max(least, ROUNDING * float(np.linalg.norm(tokens, axis=1).max(initial=0)))
        tokens = tokens - tokens.mean(0)
    norm = np.linalg.norm(tokens, axis=1, keepdims=True)
    tokens = np.where(norm > least, tokens / np.maximum(norm, least), 0)
    cosines = tokens @ tokens.T
    if quantile is not None:
        # Whole rows, evenly spread: exact for small graphs, close for large ones.
        step = -(-cosines.size // SAMPLED)
        tau = float(np.quantile(cosines[::step], quantile))
    graph = np.empty(cosines.shape)
    strong = cosines > tau
    np.copyto(graph, strong if binary else np.where(strong, cosines, 0))
    np.maximum(graph, eps, out=graph)
    return graph


def cut_graph(graph: np.ndarray) -> Cut:
    """The cut of a symmetric graph (n, n) with positive weights."""
    count = len(graph)
    # A view of all that is not the diagonal: edges of tokens to themselves cut nothing.
    others = graph.ravel()[1:].reshape(count - 1, count + 1)[:, :-1] if count > 1 else graph
    if count < 2 or others.min() == others.max():
        return Cut(np.zeros(count), np.zeros(count, bool), 0, 0.0, 0.0, constant=True)
    degree = graph.sum(1)
    values, vectors = _smallest(graph, degree)
    vector = vectors[:, 0] / np.sqrt(degree)
    foreground = vector > vector.mean()
    # A tie is decided by the order of the tokens, not by rounding.
    size = np.abs(vector)
    seed = int(np.argmax(size >= size.max() * (1 - 1e-6)))
    if not foreground[seed]:
        vector, foreground = -vector, ~foreground
    return Cut(vector, foreground, seed, float(values[0]), float(values[1] - values[0]))


def _smallest(graph: np.ndarray, degree: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues 1 and 2 (counted from 0) of the normalised Laplacian, with vectors (n, 2)."""
    count, root = len(graph), np.sqrt(degree)
    if count <= SMALL:
        laplacian = np.eye(count) - graph / root[:, None] / root
        values, vectors = scipy.linalg.eigh(laplacian)
        values = np.append(values, values[-1])  # two tokens have no third value
        return values[1:3], vectors[:, 1:3]
    # The first vector is known, root over its norm; moved from one end of the spectrum to the
    # other it cannot mix with the second, however close the two values are.
    first = root / np.linalg.norm(root)

    def multiply(x: np.ndarray) -> np.ndarray:
        x = x.reshape(count)
        return (graph @ (x / root)) / root - 2 * first * (first @ x)

    # A fixed start: the same image gives the same vector, even where several cut as well.
    start = np.random.default_rng(0).standard_normal(count)
    try:
        found, vectors = eigsh(
            LinearOperator((count, count), matvec=multiply, dtype=np.float64),
            k=2,
            which="LA",
            v0=start - first * (first @ start),
            ncv=min(count, MOST_VECTORS),
            maxiter=MOST_RESTARTS,
            tol=TOLERANCE,
        )
    except ArpackNoConvergence:
        # Many tokens with no strong edge but to themselves: values closer than their weak edges.
        logger.debug("clustered eigenvalues in a graph of %d tokens: factorized", count)
        return _factorized(graph, root, first, start)
    order = np.argsort(-found)
    return 1 - found[order], vectors[:, order]


def _factorized(
    graph: np.ndarray, root: np.ndarray, first: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same from the inverse of the Laplacian, which pulls small eigenvalues apart."""
    count = len(root)
    laplacian = graph / -root[:, None]
    laplacian /= root
    laplacian += 3 * np.outer(first, first)  # the known vector goes behind all others
    laplacian[np.diag_indices(count)] += 1 + 1e-9
    factor = scipy.linalg.cho_factor(laplacian, overwrite_a=True, check_finite=False)

    def solve(x: np.ndarray) -> np.ndarray:
        return scipy.linalg.cho_solve(factor, x, check_finite=False)

    inverse = LinearOperator((count, count), matvec=solve, dtype=np.float64)
    found, vectors = eigsh(
        inverse, k=2, which="LA", v0=start, ncv=min(count, 64), tol=TOLERANCE, maxiter=1000
    )
    order = np.argsort(-found)
    return 1 / found[order] - 1e-9, vectors[:, order]


def _checked(features: np.ndarray) -> np.ndarray:
    tokens = np.asarray(features)
    if tokens.ndim != 2:
        raise UserError(f"normalized_cut: features are {tokens.shape}, pass (tokens, channels).")
    if not np.isfinite(tokens).all():
        raise UserError(
            f"normalized_cut: {np.count_nonzero(~np.isfinite(tokens))} of {tokens.size} feature "
            "values are not finite; look at the weights that made them."
        )
    return tokens
