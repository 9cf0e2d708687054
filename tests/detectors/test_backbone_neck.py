"""Dilated ResNets against torchvision's, padding that stays silent, and the levels of the neck."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from detectron2.modeling.backbone import BasicStem
from torch import nn

from d2_unsupdet.detectors import DetrResNet, Neck
from d2_unsupdet.detectors.backbone import detr_stages
from d2_unsupdet.detectors.neck import masked_norm, resized_mask
from d2_unsupdet.errors import UserError


def resnet(depth=50, *, dilated=False, mask_padding=False, norm="FrozenBN"):
    return DetrResNet(
        stem=BasicStem(in_channels=3, out_channels=64, norm=norm),
        stages=detr_stages(depth=depth, norm=norm, dilated=dilated),
        out_features=["res3", "res4", "res5"],
        mask_padding=mask_padding,
    ).eval()


def torchvision_name(key):
    """Detectron2's parameter name to torchvision's."""
    if key.startswith("stem.conv1."):
        rest = key.removeprefix("stem.conv1.")
        return rest.replace("norm.", "bn1.") if "norm" in rest else f"conv1.{rest}"
    stage, block, part, rest = key.split(".", 3)
    place = f"layer{int(stage[-1]) - 1}.{block}"
    if part == "shortcut":
        return f"{place}.downsample." + (
            rest.replace("norm.", "1.") if "norm" in rest else f"0.{rest}"
        )
    number = part[-1]
    return f"{place}." + (
        rest.replace("norm", f"bn{number}") if "norm" in rest else f"{part}.{rest}"
    )


def load_from(twin, model):
    twin_state = twin.state_dict()
    state = {key: twin_state.pop(torchvision_name(key)) for key in model.state_dict()}
    assert all(key.startswith("fc.") or "num_batches" in key for key in twin_state)
    model.load_state_dict(state)


def randomized_norms(model):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.3, 0.6)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


@pytest.mark.parametrize("dilated", [False, True])
def test_dilated_last_stage_is_torchvisions(dilated):
    twin = randomized_norms(
        torchvision.models.resnet50(replace_stride_with_dilation=[False, False, dilated])
    )
    model = resnet(dilated=dilated)
    load_from(twin, model)
    image = torch.randn(1, 3, 70, 90)
    with torch.no_grad():
        found = model(image)
        x = twin.maxpool(twin.relu(twin.bn1(twin.conv1(image))))
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = getattr(twin, name)(x)
            if name != "layer1":
                torch.testing.assert_close(
                    found[f"res{int(name[-1]) + 1}"], x, rtol=1e-4, atol=1e-4
                )
    assert tuple(found["res5"].shape[-2:]) == ((5, 6) if dilated else (3, 3))
    assert model.output_shape()["res5"].stride == (16 if dilated else 32)
    assert model.output_shape()["res5"].channels == 2048


@pytest.mark.parametrize("depth", [18, 34])
def test_small_resnets_have_no_dilated_stage(depth):
    with pytest.raises(UserError, match=f"bottlenecks .*not depth {depth}"):
        detr_stages(depth=depth, norm="FrozenBN", dilated=True)
    assert len(detr_stages(depth=depth, norm="FrozenBN")) == 4


@pytest.mark.parametrize(
    "depth, dilated, full",
    [
        (18, False, (128, 160)),
        (18, False, (149, 161)),
        (18, False, (33, 130)),
        (18, False, (63, 66)),
        (50, True, (33, 95)),
    ],
)
def test_silent_padding_leaves_the_features_of_an_image_alone(depth, dilated, full):
    """Also where the sizes are no multiples of the stride."""
    torch.manual_seed(0)
    size = (33, 65)
    model = randomized(resnet(depth, dilated=dilated, mask_padding=True)).double()
    image = torch.randn(1, 3, *size).double()
    batch = torch.zeros(2, 3, *full).double()
    batch[0, :, : size[0], : size[1]] = image[0]
    batch[1] = torch.randn(3, *full).double()
    with torch.no_grad():
        alone = model(image, [size])
        beside = model(batch, [size, full])
        plain = resnet(depth, dilated=dilated).double()
        plain.load_state_dict(model.state_dict())
        assert torch.equal(plain(image)["res5"], alone["res5"])  # no padding, nothing changes
        unsilenced = plain(batch)
    for name, expected in alone.items():
        height, width = expected.shape[-2:]
        torch.testing.assert_close(beside[name][:1, :, :height, :width], expected)
    assert not torch.allclose(unsilenced["res5"][:1, :, :height, :width], alone["res5"])


def randomized(model):
    """Frozen norms that shift, so that they would write into the padding."""
    for name, buffer in model.named_buffers():
        if name.endswith("bias"):
            buffer.normal_(std=0.3)
        elif name.endswith("weight"):
            buffer.uniform_(0.3, 0.7)
    return model


def test_without_sizes_there_is_no_padding():
    torch.manual_seed(0)
    model = randomized(resnet(18, mask_padding=True))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        model(images, [(32, 32), (64, 96)])
        without = model(images)["res5"]  # the sizes of the call before are forgotten
        assert torch.equal(model(images, [(64, 96)] * 2)["res5"], without)
        assert not torch.equal(model(images, [(32, 32), (64, 96)])["res5"], without)


def test_a_copy_has_sizes_of_its_own():
    torch.manual_seed(0)
    model = randomized(resnet(18, mask_padding=True))
    images, sizes = torch.randn(2, 3, 64, 96), [(32, 32), (64, 96)]
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(images, sizes)["res5"]
        model(images)
        assert torch.equal(twin(images, sizes)["res5"], expected)


def test_levels_read_the_raw_last_map_then_the_level_before():
    torch.manual_seed(0)
    neck = Neck(in_channels=[8, 16], dim=32, levels=4)
    maps = [torch.randn(2, 8, 12, 20), torch.randn(2, 16, 6, 10)]
    found = neck(maps)
    sizes = [(12, 20), (6, 10), (3, 5), (2, 3)]
    assert [tuple(level.shape) for level in found] == [(2, 32, *size) for size in sizes]
    for index, source in enumerate([maps[0], maps[1], maps[1], found[2]]):
        conv, norm = neck.levels[index].conv, neck.levels[index].norm
        kernel = 1 if index < 2 else 3
        assert conv.kernel_size == (kernel, kernel)
        x = F.conv2d(
            source, conv.weight, conv.bias, stride=1 + (kernel == 3), padding=int(kernel == 3)
        )
        expected = F.group_norm(x, 32, norm.weight, norm.bias)
        torch.testing.assert_close(found[index], expected)


def test_levels_with_norms_start_xavier_and_others_as_pytorch_does():
    neck = Neck(in_channels=[64], dim=256, levels=2)
    for level, kernel in zip(neck.levels, (1, 9), strict=True):
        bound = (6 / (kernel * (64 + 256))) ** 0.5
        assert 0.98 * bound < level.conv.weight.abs().max() <= bound
        assert not level.conv.bias.any() and level.norm.num_groups == 32
    plain = Neck(in_channels=[64], dim=256, norm=False)
    assert 0.98 / 8 < plain.levels[0].conv.weight.abs().max() <= 1 / 8
    assert isinstance(plain.levels[0].norm, nn.Identity) and plain.levels[0].conv.bias.any()


def test_fewer_levels_than_maps_are_refused():
    with pytest.raises(UserError, match=r"levels=1 is less than the 2 maps"):
        Neck(in_channels=[8, 16], levels=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_masked_group_norm_is_that_of_the_cropped_map(dtype):
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 8).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (torch.randn(3, 8, 5, 7).double() * 3 + 20).to(dtype)
    sizes = [(5, 7), (3, 4), (1, 2)]
    padding = torch.ones(3, 1, 5, 7, dtype=torch.bool)
    for image, (height, width) in enumerate(sizes):
        padding[image, :, :height, :width] = False
    found = masked_norm(norm, x, padding)
    assert found.dtype != dtype or dtype == torch.float64
    for image, (height, width) in enumerate(sizes):
        crop = x[image : image + 1, :, :height, :width].double()
        expected = norm(crop)[0]
        torch.testing.assert_close(
            found[image, :, :height, :width].double(), expected, rtol=1e-4, atol=1e-4
        )
        assert not found[image, :, height:].any() and not found[image, :, :, width:].any()


def test_masked_group_norm_counts_large_maps_in_half_precision():
    """Eight channels of an 800x1333 image at stride 8 are more values than fp16 can count."""
    norm = nn.GroupNorm(1, 8)
    x = torch.randn(1, 8, 100, 167).half() + 1
    padding = torch.zeros(1, 1, 100, 167, dtype=torch.bool)
    found = masked_norm(norm, x, padding)
    torch.testing.assert_close(found.float(), norm(x.float()), rtol=1e-2, atol=1e-2)


def test_a_level_alone_equals_the_level_beside_padding():
    torch.manual_seed(0)
    neck = Neck(in_channels=[8], dim=32, levels=3).double()
    crop = torch.randn(1, 8, 7, 11).double()  # odd: a stride looks over the border
    wide = torch.full((1, 8, 16, 16), 5.0).double()
    wide[..., :7, :11] = crop
    padding = torch.ones(1, 128, 128, dtype=torch.bool)
    padding[:, :56, :88] = False
    for alone, beside in zip(neck([crop]), neck([wide], padding), strict=True):
        height, width = alone.shape[-2:]
        torch.testing.assert_close(beside[..., :height, :width], alone)
        assert not beside[..., height:, :].any() and not beside[..., width:].any()


def test_masks_shrink_by_their_nearest_pixel():
    mask = torch.zeros(2, 10, 7, dtype=torch.bool)
    mask[1, 5:] = True
    mask[1, :, 3:] = True
    small = resized_mask(mask, (4, 3))
    for b in range(2):
        for i in range(4):
            for j in range(3):
                assert small[b, i, j] == mask[b, math.floor(i * 10 / 4), math.floor(j * 7 / 3)]
    assert not small[:, 0, 0].any()  # every image keeps a cell
