"""The dilated FCN: same weights at another resolution, exact enlargement, padding without a say."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet
from torch.nn import functional as F

from d2_unsupdet.detectors import DilatedFCNHead, fcn
from d2_unsupdet.detectors.fcn import dilate, dilated_stages, enlarged
from d2_unsupdet.errors import UserError
from tests.ranks import run_ranks


def head(**changes):
    torch.manual_seed(0)
    options = {"in_channels": 3, "num_classes": 5, "channels": 8, "dilation": 2, "stride": 4}
    return DilatedFCNHead(**{**options, **changes})


def naive_loss(logits, targets, ignore=255):
    """Pixel by pixel."""
    terms = []
    for image in range(len(targets)):
        for y in range(targets.shape[1]):
            for x in range(targets.shape[2]):
                label = int(targets[image, y, x])
                if label != ignore:
                    column = logits[image, :, y, x]
                    terms.append(column.exp().sum().log() - column[label])
    return torch.stack(terms).mean()


def labels(shape=(2, 7, 9), classes=5):
    drawn = torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(1))
    drawn[:, 1:3] = 255
    return drawn.to(torch.uint8)


def test_the_loss_is_the_mean_over_labelled_pixels():
    logits, targets = torch.randn(2, 5, 8, 12), labels()
    loss = head().loss(logits, targets)
    assert loss.item() == pytest.approx(naive_loss(logits, targets).item(), rel=1e-5)


def test_class_weights_make_a_weighted_mean_and_are_no_part_of_the_checkpoint():
    weights = [0.2, 1.0, 0.0, 3.0, 1e-3]
    net, logits, targets = head(class_weights=weights), torch.randn(2, 5, 8, 12), labels()
    columns, known = logits[..., :7, :9].permute(0, 2, 3, 1)[targets != 255], targets != 255
    each = torch.tensor([weights[k] for k in targets[known].tolist()])
    nats = columns.logsumexp(-1) - columns.gather(1, targets[known].long()[:, None])[:, 0]
    expected = (each * nats).sum() / each.sum()
    assert net.loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)
    assert net.state_dict().keys() == head().state_dict().keys()
    faint = head(class_weights=[1e-6 * weight for weight in weights]).loss(logits, targets)
    assert faint.item() == pytest.approx(expected.item(), rel=1e-4)  # whatever their sum
    ones = head(class_weights=[1] * 5).loss(logits, targets)
    assert ones.item() == pytest.approx(head().loss(logits, targets).item(), rel=1e-6)
    first = head(class_weights=[0.2]).loss(logits, targets)  # the rest have 1
    assert first == head(class_weights=[0.2, 1, 1, 1, 1]).loss(logits, targets) != ones
    unlabelled = torch.full((2, 7, 9), 255, dtype=torch.uint8)
    assert net.loss(logits, unlabelled) == 0  # not NaN


@pytest.mark.parametrize("weights", [[1.0] * 6, [-1.0], [0.0] * 5])
def test_class_weights_that_make_no_mean_are_told(weights):
    with pytest.raises(UserError, match="one weight, 0 or more, for each of the 5 classes or"):
        head(class_weights=weights)


def test_padding_and_unlabelled_pixels_have_no_say():
    net, maps, targets = head().train(), torch.randn(2, 3, 3, 4), labels((2, 12, 16))
    targets[:, 8:] = 255
    logits = enlarged(torch.randn(2, 5, 3, 4), 4).requires_grad_()
    net.loss(logits, targets).backward()
    unlabelled = (targets == 255)[:, None].expand_as(logits)
    assert logits.grad[unlabelled].abs().max() == 0 < logits.grad[~unlabelled].abs().min()
    _, losses = net({"res5": maps}, torch.full((2, 12, 16), 255, dtype=torch.uint8))
    assert losses["loss_sem_seg"] == 0  # not NaN


def test_the_count_is_a_mean_over_the_processes(monkeypatch):
    """Another process with 30 labelled pixels more; gradients of both are averaged afterwards."""
    logits, targets = torch.randn(2, 5, 8, 12), labels()
    one, own = head().loss(logits, targets), (targets != 255).sum()
    monkeypatch.setattr(fcn.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(fcn.dist, "all_reduce", lambda count: count.add_(own + 30))
    assert head().loss(logits, targets).item() == pytest.approx((one * own / (own + 15)).item())


def test_a_fresh_classifier_takes_all_classes_for_alike():
    net = head(channels=64).eval()
    assert net.predictor.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert (net.predictor.bias == 0).all()


def _rank_loss(rank):
    """Unequal numbers of labelled pixels on two ranks."""
    torch.manual_seed(3)
    logits = torch.randn(2, 5, 6, 6).requires_grad_()
    targets = torch.randint(0, 5, (2, 6, 6), generator=torch.Generator().manual_seed(2))
    targets[0, :4] = 255
    net = DilatedFCNHead(in_channels=3, num_classes=5)
    if rank < 0:
        net.loss(logits, targets).backward()
        return logits.grad
    net.loss(logits[rank : rank + 1], targets[rank : rank + 1]).backward()
    return logits.grad / 2  # as DistributedDataParallel averages


@pytest.mark.slow
def test_two_processes_equal_one_with_the_whole_batch():
    parts = run_ranks(_rank_loss)
    assert torch.allclose(parts[0] + parts[1], _rank_loss(-1), atol=1e-7)


@pytest.mark.parametrize("depth", [18, 50])
def test_dilated_stages_have_a_resnets_weights_and_its_values_where_it_looks(depth):
    """Every other cell of the dilated map is the strided one: same weights, twice the cells.

    Exactly so if the convolution that had the stride looks at its neighbours as before; the recipe
    dilates that one too.
    """
    torch.manual_seed(0)
    stem = BasicStem(norm="BN")
    plain = ResNet(stem, ResNet.make_default_stages(depth, norm="BN"), out_features=["res5"])
    dense = ResNet(stem, dilated_stages(depth=depth, norm="BN"), out_features=["res5"])
    dense.load_state_dict(plain.state_dict())
    assert dense.output_shape()["res5"].stride == 16
    convs = [m for m in dense.res5.modules() if getattr(m, "kernel_size", 0) == (3, 3)]
    assert len(convs) == (4 if depth == 18 else 3)
    assert all(c.dilation == c.padding == (2, 2) and c.stride == (1, 1) for c in convs)
    convs[0].dilation = convs[0].padding = (1, 1)
    image = torch.randn(1, 3, 129, 97)
    with torch.no_grad():
        coarse, fine = (net.eval()(image)["res5"] for net in (plain, dense))
    assert fine.shape[-2:] == (9, 7) and coarse.shape[-2:] == (5, 4)
    assert torch.allclose(fine[..., ::2, ::2], coarse, rtol=1e-4, atol=1e-4)


def test_two_stages_are_dilated_twice_and_four_times():
    stages = dilate(ResNet.make_default_stages(18, norm="BN"), last=2)
    dilations = [block.conv1.dilation[0] for stage in stages for block in stage]
    assert dilations == [1, 1, 1, 1, 2, 2, 4, 4]
    assert math.prod(b.stride for stage in stages for b in stage) == 2
    with pytest.raises(UserError, match="last=4 stages"):
        dilate(stages, last=4)
    with pytest.raises(UserError, match="no ResNet-20"):
        dilated_stages(depth=20, norm="BN")


def test_cells_are_centred_on_every_strided_pixel():
    """A ramp over the pixels, looked at as strided convolutions do, comes back as it was."""
    ramp = torch.arange(33.0)[None, None, None].expand(1, 1, 17, 33)
    back = enlarged(ramp[..., ::8, ::8], 8)
    assert back.shape[-2:] == (24, 40)
    assert torch.allclose(back[..., :17, :33], ramp, atol=1e-4)
    assert (back[..., 33:] == back[..., 32:33]).all()  # nothing is known beyond the last cell
    impulse = torch.zeros(1, 1, 1, 33)
    impulse[..., 16] = 1
    strided = F.conv2d(F.pad(impulse, (1, 1)), torch.ones(1, 1, 1, 3), stride=2)
    assert strided.argmax() == 8  # a cell sees the pixel that it is centred on


def test_inference_gives_every_pixel_and_no_loss():
    net = head().eval()
    logits, losses = net({"res5": torch.randn(2, 3, 3, 4)}, labels((2, 12, 16)))
    assert logits.shape == (2, 5, 12, 16) and losses == {}


def test_yaml_names_one_map_of_the_backbone():
    from detectron2.config import get_cfg
    from detectron2.modeling.meta_arch import build_sem_seg_head

    cfg = get_cfg()
    keys = cfg.MODEL.SEM_SEG_HEAD
    keys.NAME, keys.IN_FEATURES, keys.NORM = "DilatedFCNHead", ["res5"], "BN"
    shapes = {"res5": ShapeSpec(channels=6, stride=16)}
    built = build_sem_seg_head(cfg, shapes)
    assert built.stride == 16 and built.num_classes == 54
    assert [conv.in_channels for conv in built.convs] == [6, 128]
    keys.IN_FEATURES = ["p2", "p3"]
    with pytest.raises(UserError, match="must name one map of the backbone, which gives res5"):
        build_sem_seg_head(cfg, shapes)
