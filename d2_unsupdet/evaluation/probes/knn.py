"""Nearest neighbours (Wu et al., arXiv:1805.01978): they vote with exp(cosine / temperature)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.probes.features import chunks


def knn_scores(
    train: Tensor,
    targets: Tensor,
    test: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """The share (n, classes) of the votes that each class gets.

    Args:
        train: (m, dim) features whose classes are known.
        targets: (m, classes); only 1 votes.
        test: (n, dim) features.
        k: neighbours; all, where there are fewer.
        temperature: divides the cosine.
        chunk: test rows at a time, so that (chunk, m) similarities fit into memory.
    """
    if k < 1 or temperature <= 0:
        raise UserError(f"k-NN needs k >= 1 and a temperature over 0, not {k} and {temperature}.")
    bank, votes = F.normalize(train, dim=1), (targets == 1).to(train)
    scores = []
    for part in chunks(len(test), chunk):
        similarity = F.normalize(test[part], dim=1) @ bank.T
        nearest, index = similarity.topk(min(k, len(bank)), dim=1)
        weight = torch.softmax(nearest / temperature, dim=1)  # of all exp, so nothing overflows
        scores.append((weight[..., None] * votes[index]).sum(1))
    return torch.cat(scores)
