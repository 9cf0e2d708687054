"""SimSiam: against an eager loop written plainly, as a case of DenseSiam, over ranks, collapse."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import nn

from d2_unsupdet.config import add_unsupdet_config
from d2_unsupdet.engine.config import load_config
from d2_unsupdet.engine.sync_batch_norm import resolve_sync_bn, use_sync_bn
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import below_floor, drain_metrics
from d2_unsupdet.pretext import DenseSiam, SimSiam
from tests.pretext.tiny import paired_batch, parameters, tiny_resnet
from tests.ranks import run_ranks

NAME = "loss_image_res5"


def tiny_simsiam(seed: int = 0, **changes) -> SimSiam:
    torch.manual_seed(seed)
    return SimSiam(backbone=tiny_resnet(), **{"dim": 16, "hidden": 8, **changes})


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


def train(model: SimSiam, batches: list[list[dict]]) -> list[float]:
    optimizer, losses = sgd(model), []
    for batch in batches:
        loss = model(batch)[NAME]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class Eager(nn.Module):
    """The paper's algorithm 1 with heads of its own."""

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(512, 512, bias=False),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, 512, bias=False),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Linear(512, 16, bias=False),
            nn.BatchNorm1d(16, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 16)
        )

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        z1, z2 = (
            self.projector(F.adaptive_avg_pool2d(self.backbone(x)["res5"], 1).flatten(1))
            for x in (first, second)
        )
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return self.distance(p1, z2) / 2 + self.distance(p2, z1) / 2

    def distance(self, p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return -F.cosine_similarity(p, z.detach(), dim=1).mean()


@pytest.fixture(scope="module")
def batches() -> list[list[dict]]:
    return [paired_batch(5, seed) for seed in range(4)]


def test_training_equals_the_plain_loop(batches):
    model = tiny_simsiam().double()
    eager = Eager(tiny_resnet()).double()
    eager.backbone.load_state_dict(model.backbone.state_dict())
    eager.projector.load_state_dict(model.heads["image"].projector.state_dict())
    eager.predictor.load_state_dict(model.heads["image"].predictor.state_dict())
    optimizer, expected = sgd(eager), []
    for batch in batches:
        images = torch.stack([s["views"] for s in batch]).double()
        images = (images - model.views.mean) / model.views.std
        loss = eager(images[:, 0], images[:, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert train(model, batches) == pytest.approx(expected, rel=1e-9)
    for a, b in (
        (model.backbone, eager.backbone),
        (model.heads["image"].projector, eager.projector),
        (model.heads["image"].predictor, eager.predictor),
    ):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-9, msg=name)


def test_it_is_dense_siam_without_pixels_and_regions(batches):
    simsiam = tiny_simsiam()
    torch.manual_seed(0)
    dense = DenseSiam(backbone=tiny_resnet(), dim=16, hidden=8, pixel_weight=0.0, region_weight=0.0)
    assert simsiam.state_dict().keys() == dense.state_dict().keys()
    assert train(simsiam, batches[:2]) == train(dense, batches[:2])
    assert torch.equal(parameters(simsiam), parameters(dense))


def test_needs_nothing_but_views(batches):
    bare = [{"views": sample["views"]} for sample in batches[0]]
    assert torch.equal(tiny_simsiam()(bare)[NAME], tiny_simsiam()(batches[0])[NAME])


@pytest.mark.parametrize("depth, norm", [(18, "BN"), (50, "SyncBN")])
def test_residual_branches_start_at_zero(depth, norm):
    def resnet() -> ResNet:
        stages = ResNet.make_default_stages(depth, norm=norm)
        return ResNet(BasicStem(norm=norm), stages, out_features=["res5"], freeze_at=0)

    last = "conv2" if depth == 18 else "conv3"
    for zero in (True, False):
        backbone = SimSiam(backbone=resnet(), dim=16, hidden=8, zero_init_last_norm=zero).backbone
        norms = {
            name.split(".")[2]: module.weight.abs().sum().item() > 0
            for name, module in backbone.named_modules()
            if name.startswith("res3.0.") and name.endswith(".norm")
        }
        assert norms[last] is not zero
        assert all(filled for name, filled in norms.items() if name != last)


def test_gradient_reaches_every_parameter(batches):
    model = tiny_simsiam(zero_init_last_norm=False)
    model(batches[0])[NAME].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_loss_does_not_depend_on_the_order_of_the_batch(batches):
    model = tiny_simsiam().double()
    shuffled = [batches[0][i] for i in (3, 0, 4, 1, 2)]
    losses = [model(batch)[NAME].item() for batch in (batches[0], shuffled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_collapse_is_noticed(batches):
    drain_metrics()
    model = tiny_simsiam(collapse_threshold=0.5)
    model(batches[0])
    healthy = {name: value.item() for name, value in drain_metrics().items()}
    assert set(healthy) == {"image/feature_std"}
    assert healthy["image/feature_std"] == pytest.approx(1 / 16**0.5, rel=0.2)
    assert not below_floor(healthy)
    model.heads["image"].projector = nn.Sequential(nn.Linear(512, 16))
    with torch.no_grad():
        for p in model.heads["image"].projector.parameters():
            p.copy_(torch.full_like(p, 1e-6) if p.dim() == 2 else torch.ones_like(p))
    model(batches[0])
    means = {name: value.item() for name, value in drain_metrics().items()}
    assert below_floor(means) == {"image/feature_std": pytest.approx(0.5 / 16**0.5)}


def test_bf16_is_close_to_fp32():
    losses, batch = [], paired_batch(6, side=64)
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = tiny_simsiam()(batch)[NAME]
        loss.backward()
        assert loss.dtype == torch.float32
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_state_dict_round_trip_continues_bit_for_bit(batches):
    model = tiny_simsiam()
    train(model, batches[:2])
    resumed = tiny_simsiam(seed=1)
    resumed.load_state_dict(model.state_dict())
    again = [train(m, batches[2:]) for m in (model, resumed)]
    assert again[0] == again[1] and torch.equal(parameters(model), parameters(resumed))


def test_export_is_the_backbone_strictly(batches):
    model = tiny_simsiam()
    train(model, batches[:1])
    fresh = tiny_resnet()
    fresh.load_state_dict(model.export())
    images = torch.randn(2, 3, 32, 32)
    expected = model.backbone.eval()(images)["res5"]
    assert torch.equal(fresh.eval()(images)["res5"], expected)


def two_ranks(rank: int) -> dict[str, torch.Tensor]:
    model = resolve_sync_bn(use_sync_bn(tiny_simsiam().double()))
    parallel = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = sgd(model)
    for step in range(2):
        optimizer.zero_grad()
        parallel(paired_batch(8, step)[4 * rank :][:4])[NAME].backward()
        optimizer.step()
    return model.state_dict()


def test_two_ranks_equal_one_process_with_the_whole_batch():
    ranks = run_ranks(two_ranks)
    alone = tiny_simsiam().double()
    train(alone, [paired_batch(8, step) for step in range(2)])
    for state in ranks:
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-8, msg=name)


def test_bad_settings_are_sentences():
    with pytest.raises(UserError, match="no output 'res6'.*Did you mean 'res5'"):
        tiny_simsiam(level="res6")
    with pytest.raises(UserError, match="frozen parts.*freeze_at to 0"):
        SimSiam(backbone=tiny_resnet(freeze_at=1))
    with pytest.raises(UserError, match="zero_init_last_norm found 8 residual blocks"):
        SimSiam(backbone=tiny_resnet(norm=""))
    with pytest.raises(UserError, match="No similarity is named 'dot'"):
        tiny_simsiam(similarity="dot")


def test_yaml_config_builds_the_same_model():
    cfg = get_cfg()
    add_unsupdet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "SimSiam", "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    resnet = cfg.MODEL.RESNETS
    resnet.DEPTH, resnet.RES2_OUT_CHANNELS, resnet.NORM = 18, 64, "BN"
    resnet.OUT_FEATURES = ["res5"]
    cfg.MODEL.SIMSIAM.DIM, cfg.MODEL.SIMSIAM.HIDDEN = 16, 8
    model = build_model(cfg)
    assert isinstance(model, SimSiam)
    model.load_state_dict(tiny_simsiam().state_dict())


def test_the_recipe_keeps_the_predictor_s_rate_alone():
    recipe = Path(__file__).parents[2] / "configs/pretrain/simsiam/imagenet_r50_100ep.py"
    cfg = load_config(str(recipe))
    assert cfg.dataloader.train.total_batch_size == 512 and cfg.train.sync_bn
    model = tiny_simsiam()
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]  # 0.05 * 512 / 256
    fixed = [p for g in optimizer.param_groups if g.get("fixed_lr") for p in g["params"]]
    assert {id(p) for p in fixed} == {id(p) for p in model.heads["image"].predictor.parameters()}
