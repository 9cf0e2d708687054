"""The nearest image is the duplicate; a mirrored one is not, since place counts."""

import numpy as np
import torch
import torch.nn.functional as F

from d2_unsupdet.analysis.neighbours import draw, neighbours
from d2_unsupdet.analysis.samples import Sample, stack


def pooled(images):
    return {"res5": F.avg_pool2d(images.float() - 127, 16)}


def samples():
    """0 to 4 differ; 5 is the mirror of 0, 6 and 7 copies of 0 and 1 with a little noise."""
    rng = np.random.default_rng(0)
    images = [np.kron(rng.integers(20, 235, (4, 4, 3)), np.ones((16, 16, 1))) for _ in range(5)]
    images += [images[0][:, ::-1]]
    images += [images[i] + rng.integers(-5, 5, images[i].shape) for i in (0, 1)]
    return [Sample(image.astype(np.uint8), f"{i}.png") for i, image in enumerate(images)]


def test_a_duplicate_is_nearest_a_mirror_image_is_not():
    result = neighbours(pooled, samples(), queries=2, side=64)
    assert result.indices[:, 0].tolist() == [6, 7]
    assert (result.similarities[:, 0] > 0.99).all()
    assert result.similarities[0, 1] < 0.9  # whatever comes second, the mirror image included


def test_equal_to_all_pairs_whatever_the_batch():
    whole = samples()
    vectors = F.normalize(pooled(stack(whole, 64)[0])["res5"].flatten(1), dim=1)
    cosines = vectors @ vectors.T
    cosines.fill_diagonal_(-2)
    for batch in (3, 100):
        result = neighbours(pooled, whole, queries=8, k=3, side=64, batch=batch)
        torch.testing.assert_close(result.similarities, cosines.topk(3).values)
        assert torch.equal(result.indices, cosines.topk(3).indices)


def test_fewer_images_than_neighbours_and_the_numbers():
    result = neighbours(pooled, samples()[:3], queries=6, k=4, side=64)
    assert result.indices.shape == (3, 2)
    told = result.to_json(samples())
    assert [q["query"] for q in told["queries"]] == ["0.png", "1.png", "2.png"]
    assert {n["image"] for n in told["queries"][0]["neighbours"]} == {"1.png", "2.png"}


def test_blocks_of_two_checkpoints():
    result = neighbours(pooled, samples(), queries=2, k=3, side=64)
    figure = draw({"a": result, "b": result}, samples(), "title")
    assert sum(len(axis.images) for axis in figure.axes) == 2 * (1 + 2 * 3)
