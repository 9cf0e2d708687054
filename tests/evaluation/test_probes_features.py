"""Features of the stages: sizes of the protocol, conv1 before its pooling, a frozen network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from d2_unsupdet.checkpoint.backbone import Architecture, FrozenResNet, Stage
from d2_unsupdet.engine.digest import state_digest
from d2_unsupdet.evaluation.probes import STAGES, ProbeSet, extract, svm_scores
from d2_unsupdet.evaluation.probes.features import WINDOWS, feature_maps, pool_grid, pool_mean

SMALL = Architecture(8, tuple(Stage(1, 8 * 2**i) for i in range(4)))


def images(count, seed=0, size=224):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def test_grids_have_the_protocols_lengths():
    maps = feature_maps(FrozenResNet(SMALL), images(2), list(STAGES))
    assert {s: maps[s].shape[-1] for s in STAGES} == {s: w[0] for s, w in WINDOWS.items()}
    sides = {s: (pool_grid(s, m).shape[1] / m.shape[1]) ** 0.5 for s, m in maps.items()}
    assert sides == {"conv1": 12, "conv2": 6, "conv3": 4, "conv4": 3, "conv5": 2}
    # 64, 256, 512, 1024 and 2048 channels: the lengths that the protocol names
    widths = dict(zip(sides.values(), (64, 256, 512, 1024, 2048), strict=True))
    assert [int(c * s * s) for s, c in widths.items()] == [9216, 9216, 8192, 9216, 8192]


def test_windows_at_224_and_at_other_sizes():
    at_224 = torch.arange(49.0).view(1, 1, 7, 7)
    means = [at_224[0, 0, y : y + 6, x : x + 6].mean() for y in (0, 1) for x in (0, 1)]
    torch.testing.assert_close(pool_grid("conv5", at_224)[0], torch.stack(means))
    other = torch.arange(16.0).view(1, 1, 4, 4)
    assert pool_grid("conv5", other).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert pool_mean("conv5", other).tolist() == [[7.5]]


def test_conv1_is_read_before_the_pooling_and_nothing_is_changed():
    net = FrozenResNet(SMALL)
    before, batch = state_digest(net.state_dict()), images(2, size=64)
    plain = net(batch)
    maps = feature_maps(net, batch, ["conv1", "conv5"])
    pooled = F.max_pool2d(maps["conv1"], kernel_size=3, stride=2, padding=1)
    assert torch.equal(pooled, plain["stem"]) and torch.equal(maps["conv5"], plain["res5"])
    assert not net.resnet.stem.conv1._forward_hooks
    assert state_digest(net.state_dict()) == before


class Planted(nn.Module):
    """Only res4 knows the class, which the top left pixel shows; the other stages are noise."""

    def forward(self, batch):
        label = batch[:, 0, 0, 0].float() / 100
        maps = {}
        for number, level in enumerate(("stem", "res2", "res3", "res4", "res5")):
            generator = torch.Generator().manual_seed(number + 10 * int(batch.sum() % 1000))
            maps[level] = torch.randn(len(batch), 4, 14, 14, generator=generator)
        maps["res4"][:, 0] += 5 * label[:, None, None]
        maps["res4"][:, 1] += 5 * (1 - label)[:, None, None]
        return maps


@pytest.fixture
def planted(tmp_path):
    import numpy as np
    from PIL import Image

    def make(name, count):
        files = []
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            pixels[0, 0] = 100 * (i % 2)
            files.append(str(tmp_path / f"{name}{i}.png"))
            Image.fromarray(pixels).save(files[-1])
        targets = torch.eye(2, dtype=torch.int8)[torch.arange(count) % 2]
        none = [None] * count
        return ProbeSet(
            name=name, kind="multi", files=files, regions=none, targets=targets, classes=["a", "b"]
        )

    return make("train", 40), make("test", 60)


def test_the_svm_finds_the_planted_stage(planted):
    train, test = planted
    options = {"size": 16, "stages": list(STAGES), "pool": pool_grid, "batch": 16}
    (known, _), (unknown, _) = (extract(Planted(), one, **options) for one in (train, test))
    right = {}
    for stage in STAGES:
        scores, _ = svm_scores(known[stage], train.targets, unknown[stage], costs=[1.0])
        right[stage] = float((scores.argmax(1) == test.targets.argmax(1)).float().mean())
    assert right["conv4"] == 1.0
    assert all(0.2 < right[s] < 0.8 for s in STAGES if s != "conv4")
