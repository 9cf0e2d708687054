"""RegionSim: soft masks, the choice of regions and the contrast within an image, against loops."""

import math

import pytest
import torch

from d2_unsupdet.pretext.regions import region_contrast, region_embeddings, shared_regions


def test_embeddings_equal_loops():
    torch.manual_seed(0)
    logits, features = torch.randn(2, 3, 5).double(), torch.randn(2, 4, 5).double()
    found = region_embeddings(logits, features)
    for i in range(2):
        for k in range(3):
            expected = torch.zeros(4).double()
            for p in range(5):
                total = sum(math.exp(float(logits[i, j, p])) for j in range(3))
                expected += math.exp(float(logits[i, k, p])) / total * features[i, :, p]
            torch.testing.assert_close(found[i, k], expected)
    # The masks of a place share it out: nothing is counted twice.
    torch.testing.assert_close(found.sum(1), features.sum(2))


def test_chosen_regions_are_rows_of_all():
    torch.manual_seed(0)
    logits, features = torch.randn(2, 6, 5), torch.randn(2, 4, 5)
    chosen = torch.tensor([[4, 0], [1, 5]])
    rows = region_embeddings(logits, features, chosen)
    torch.testing.assert_close(
        rows, torch.stack([region_embeddings(logits, features)[i, c] for i, c in enumerate(chosen)])
    )


def test_shared_regions_cover_most_in_both_views():
    one_hot = 50 * torch.eye(4)
    first = one_hot[:, [0, 0, 0, 0, 1, 1, 2]]  # category 0 four times, 1 twice, 2 once
    second = one_hot[:, [1, 1, 1, 2, 2, 3, 0]]  # 1 three times, 2 twice, 3 and 0 once
    # In the view where it covers less: 0 once, 1 twice, 2 once, 3 never.
    assert shared_regions(first[None], second[None], 1).tolist() == [[1]]
    assert set(shared_regions(first[None], second[None], 3)[0].tolist()) == {0, 1, 2}
    assert shared_regions(first[None], second[None], 9).shape == (1, 4)


def test_contrast_equals_loops():
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    found = region_contrast(query, key, temperature=0.1)
    for i in range(2):
        losses = []
        for n in range(3):
            near = [
                math.exp(float(torch.cosine_similarity(query[i, n], key[i, m], dim=0)) / 0.1)
                for m in range(3)
            ]
            losses.append(-math.log(near[n] / sum(near)))
        assert found[i].item() == pytest.approx(sum(losses) / 3)


def test_contrast_known_values():
    same = torch.ones(1, 5, 8)
    assert region_contrast(same, same, temperature=0.1).item() == pytest.approx(math.log(5))
    apart = torch.eye(5)[None]
    assert region_contrast(apart, apart, temperature=0.01).item() == pytest.approx(0, abs=1e-6)


def test_fp32_under_autocast():
    logits, features = torch.randn(2, 6, 5).bfloat16(), torch.randn(2, 4, 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        regions = region_embeddings(logits, features)
        loss = region_contrast(regions, regions, temperature=0.1)
    assert regions.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(regions, region_embeddings(logits.float(), features.float()))
