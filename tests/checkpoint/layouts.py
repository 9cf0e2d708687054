"""Random ResNets in the layouts of other projects, with exactly their names."""

from functools import cache

import torch
import torchvision


@cache
def _resnet(depth: int) -> torchvision.models.ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(depth)
        net = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.0)
                torch.nn.init.normal_(module.bias, std=0.1)
                torch.nn.init.normal_(module.running_mean, std=0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def torchvision_net(depth: int = 18) -> torchvision.models.ResNet:
    """A random ResNet whose norms are not the identity."""
    return _resnet(depth)


def torchvision_state(depth: int = 18) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in _resnet(depth).state_dict().items()}


def backbone_state(depth: int = 18) -> dict[str, torch.Tensor]:
    return {n: t for n, t in torchvision_state(depth).items() if not n.startswith("fc.")}


def moco_state(depth: int = 18) -> dict[str, torch.Tensor]:
    """Query encoder, key encoder with other values, their two-layer heads, the queue."""
    body = backbone_state(depth)
    width = 512 if depth < 50 else 2048
    head = {
        "fc.0.weight": torch.rand(width, width),
        "fc.0.bias": torch.rand(width),
        "fc.2.weight": torch.rand(128, width),
        "fc.2.bias": torch.rand(128),
    }
    state = {f"module.encoder_q.{n}": t for n, t in (body | head).items()}
    state |= {f"module.encoder_k.{n}": t + 1 for n, t in (body | head).items()}
    return state | {"module.queue": torch.rand(128, 64), "module.queue_ptr": torch.zeros(1).long()}


def simsiam_state(depth: int = 18) -> dict[str, torch.Tensor]:
    """Encoder with its projector as `fc`, and the predictor."""
    head = {"fc.0.weight": torch.rand(8, 8), "fc.1.running_mean": torch.rand(8)}
    head |= {"fc.6.weight": torch.rand(8, 8), "fc.7.num_batches_tracked": torch.tensor(1)}
    state = {f"module.encoder.{n}": t for n, t in (backbone_state(depth) | head).items()}
    return state | {"module.predictor.0.weight": torch.rand(8, 8)}


def swav_state(depth: int = 18) -> dict[str, torch.Tensor]:
    """A ResNet with a projection head and prototypes, under DistributedDataParallel."""
    head = {"projection_head.0.weight": torch.rand(8, 8), "projection_head.1.bias": torch.rand(8)}
    head |= {"projection_head.3.weight": torch.rand(8, 8), "prototypes.weight": torch.rand(30, 8)}
    return {f"module.{n}": t for n, t in (backbone_state(depth) | head).items()}


LAYOUTS = {
    "torchvision": torchvision_state,
    "moco": moco_state,
    "simsiam": simsiam_state,
    "swav": swav_state,
}
