"""The extra-norm head and the downstream models: LazyConfig and YAML must be one model."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import ResNet
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

from d2_unsupdet.config import add_unsupdet_config
from d2_unsupdet.detectors import Res5ROIHeadsExtraNorm
from d2_unsupdet.detectors.rcnn import STAGES, stage_channels
from d2_unsupdet.engine.sync_batch_norm import resolve_sync_bn

CONFIGS = Path(__file__).parents[2] / "configs"
TWINS = {
    "faster_rcnn_c4": "voc/faster_rcnn_r50_c4_24k.yaml",
    "mask_rcnn_c4": "coco/mask_rcnn_r50_c4_1x.yaml",
    "mask_rcnn_fpn": "coco/mask_rcnn_r50_fpn_1x.yaml",
    "retinanet": "coco/retinanet_r50_fpn_1x.yaml",
}
YAMLS = [
    path
    for path in sorted((CONFIGS / "finetune").rglob("*.yaml"))
    if path.stem.startswith(("faster_rcnn", "mask_rcnn", "retinanet"))
]
CLASSES = 3


def from_lazy(name: str, depth: int) -> nn.Module:
    cfg = LazyConfig.load(str(CONFIGS / f"common/models/{name}.py")).model
    backbone = cfg.backbone if "stages" in cfg.backbone else cfg.backbone.bottom_up
    backbone.stages.depth = depth
    counted = cfg.roi_heads if "roi_heads" in cfg else cfg
    assert counted.num_classes == "auto"
    counted.num_classes = CLASSES
    return resolve_sync_bn(instantiate(cfg))


def yaml_config(name: str) -> CfgNode:
    cfg = get_cfg()
    add_unsupdet_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "finetune" / name))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def from_yaml(name: str, depth: int) -> nn.Module:
    cfg = yaml_config(TWINS[name])
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = stage_channels(depth=depth, stage="res2")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = CLASSES
    return resolve_sync_bn(build_model(cfg))


def batch() -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for height, width in ((64, 96), (80, 64)):
        boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 60.0]])
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 6:50, 4:40] = masks[1, 10:60, 20:60] = True
        instances = Instances((height, width))
        instances.gt_boxes, instances.gt_masks = Boxes(boxes), BitMasks(masks)
        instances.gt_classes = torch.tensor([0, 2])
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        size = {"height": 2 * height, "width": 2 * width}
        samples.append({"image": image, "instances": instances, **size})
    return samples


def losses(model: nn.Module) -> dict[str, torch.Tensor]:
    from detectron2.utils.events import EventStorage

    torch.manual_seed(5)
    with EventStorage():
        return model(batch())


def make_small(model: nn.Module) -> tuple:
    """Few regions, for speed; returns the configured numbers."""
    rpn, heads = model.proposal_generator, model.roi_heads
    before = heads.batch_size_per_image, rpn.pre_nms_topk, rpn.post_nms_topk
    heads.batch_size_per_image, rpn.post_nms_topk = 32, {True: 64, False: 32}
    return before


@pytest.mark.parametrize("name", TWINS)
def test_yaml_and_lazy_config_are_one_model(name):
    lazy, yaml = from_lazy(name, 18), from_yaml(name, 18)
    lazy.load_state_dict(yaml.state_dict())
    if name != "retinanet":
        assert make_small(lazy) == make_small(yaml)
    first, second = losses(lazy), losses(yaml)
    assert first.keys() == second.keys()
    for key, loss in first.items():
        assert torch.equal(loss, second[key]), key
    sum(first.values()).backward()
    without = [n for n, p in lazy.named_parameters() if p.requires_grad and p.grad is None]
    assert not without and all(p.requires_grad for p in lazy.parameters())
    with torch.no_grad():
        results = [model.eval()(batch()) for model in (lazy, yaml)]
    for a, b in zip(*results, strict=True):
        assert a["instances"].image_size == b["instances"].image_size
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].scores, b["instances"].scores)


@pytest.mark.parametrize("name", TWINS)
def test_resnet_50_twins_have_the_same_parameters(name):
    shapes = [
        {key: value.shape for key, value in build(name, 50).state_dict().items()}
        for build in (from_lazy, from_yaml)
    ]
    assert shapes[0] == shapes[1]
    norms = {key.split(".norm.")[0] for key in shapes[0] if ".norm." in key}
    unnormed = ("roi_heads.box_head", "roi_heads.mask_head", "proposal_generator", "head.")
    assert not any(norm.startswith(unnormed) for norm in norms)
    assert any("fpn_output" in norm for norm in norms) == ("c4" not in name)


@pytest.mark.parametrize("depth", [18, 50])
def test_extra_norm_is_the_only_addition_and_comes_last(depth):
    model = from_lazy("faster_rcnn_c4", depth)
    head = model.roi_heads
    assert isinstance(head, Res5ROIHeadsExtraNorm)
    stage = ResNet.make_default_stages(depth, norm="BN")[-1]
    expected = set(nn.Sequential(*stage).state_dict())
    added = set(head.res5.state_dict()) - expected
    assert expected <= set(head.res5.state_dict())
    assert {name.split(".")[0] for name in added} == {"norm"}
    assert head.res5.norm.num_features == stage_channels(depth=depth, stage="res5")
    head.train()
    out = head.res5(torch.randn(4, stage_channels(depth=depth, stage="res4"), 6, 6))
    # A fresh norm standardises each channel; the bare blocks would end in a ReLU.
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(out.shape[1]), atol=1e-5, rtol=0)
    assert (out < 0).any()


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_stage_channels_are_those_of_the_resnet(depth):
    stages = ResNet.make_default_stages(depth, norm="")
    for name, blocks in zip(STAGES, stages, strict=True):
        assert stage_channels(depth=depth, stage=name) == blocks[-1].out_channels


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: p.stem)
def test_every_yaml_follows_the_protocol(path):
    cfg = yaml_config(str(path.relative_to(CONFIGS / "finetune")))
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0 and cfg.MODEL.RESNETS.NORM == "SyncBN"
    assert not cfg.MODEL.RESNETS.STRIDE_IN_1X1 and cfg.INPUT.FORMAT == "RGB"
    assert cfg.TEST.PRECISE_BN.ENABLED and cfg.SOLVER.STEPS[-1] < cfg.SOLVER.MAX_ITER
    if "fpn" in path.stem:
        assert cfg.MODEL.FPN.NORM == "SyncBN"
        assert not cfg.MODEL.ROI_BOX_HEAD.NORM and not cfg.MODEL.ROI_MASK_HEAD.NORM
        assert not cfg.MODEL.RETINANET.NORM
    else:
        assert cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm"


def test_moco_config_builds_the_paper_s_model():
    cfg = LazyConfig.load(str(CONFIGS / "common/models/moco_v2.py")).model
    cfg.backbone.stages.depth = 18
    model = instantiate(cfg)
    assert model.queue("image_res5").keys.shape == (65536, 128)
    assert (model.momentum, model.image_loss.temperature) == (0.999, 0.2) and model.shuffle_bn
