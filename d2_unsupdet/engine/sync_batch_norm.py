"""Batch norm over all ranks wherever we run: CUDA ranks, CPU ranks (gloo) or one process.

`nn.SyncBatchNorm` refuses CPU tensors, and Detectron2 models that ask for "SyncBN" contain it. So a
model is built with SyncBN and then resolved for where it runs; all names in its state stay.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn

logger = logging.getLogger(__name__)


def use_sync_bn(model: nn.Module) -> nn.Module:
    """Turn every trainable batch norm into `nn.SyncBatchNorm`; `resolve_sync_bn` then places it."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def resolve_sync_bn(model: nn.Module) -> nn.Module:
    """Make the `nn.SyncBatchNorm` layers of `model` work here; parameters are shared, not copied.

    Several CUDA processes: unchanged. One process: plain batch norm, which is the same thing there.
    Several CPU processes: `GlooSyncBatchNorm`.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    if not layers:
        return model
    if comm.get_world_size() == 1:
        logger.info("SyncBN: %d layers run as plain BN in a single process.", len(layers))
        return _replace(model, LocalBatchNorm)
    if any(p.is_cuda for layer in layers for p in layer.state_dict().values()):
        return model
    logger.info("SyncBN: %d layers all-reduce through gloo on CPU.", len(layers))
    return _replace(model, GlooSyncBatchNorm)


class LocalBatchNorm(nn.BatchNorm2d):
    """Batch norm of one process for inputs (batch, channels, ...) of any rank, as SyncBN takes.

    A subclass of BatchNorm2d because Detectron2 recognises norm layers (weight decay, PreciseBN) by
    class.

    Args: as `nn.BatchNorm2d`.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"Batch norm needs (batch, channels, ...), got {tuple(input.shape)}.")


class GlooSyncBatchNorm(LocalBatchNorm):
    """Batch norm whose training statistics are those of the concatenated batch of all ranks.

    Ranks may bring batches and maps of different size, even none. Not a subclass of
    `nn.SyncBatchNorm`, which DistributedDataParallel refuses on CPU::

        norm = GlooSyncBatchNorm(64)
        norm(torch.rand(local_batch, 64, 7, 7))

    Args: as `nn.BatchNorm2d`.
    """

    process_group: dist.ProcessGroup | None = None

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if not self.training or dist.get_world_size(self.process_group) == 1:
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        reduce = _all_reduce(self.process_group)
        mean, var, count = _moments(x.detach(), reduce)
        if count.item() <= 1:
            raise ValueError(
                "Batch norm needs more than one value per channel over all ranks in training, "
                f"got {int(count)} from an input of shape {tuple(input.shape)}."
            )
        self._track(mean, var * (count / (count - 1)))
        out = _Normalise.apply(x, mean, torch.rsqrt(var + self.eps), count, reduce)
        if self.affine:
            out = out * _column(self.weight, x) + _column(self.bias, x)
        return out.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        """Running statistics as torch keeps them; `momentum=None` is the cumulative average."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        factor = self.momentum
        if factor is None:
            factor = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(unbiased_var.to(self.running_var.dtype), factor)


Reduce = Callable[[Tensor], Tensor]


class _Normalise(torch.autograd.Function):
    """(x - mean) / std, where both depend on the x of all ranks: one all-reduce backwards."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, inv_std: Tensor, count: Tensor, reduce: Reduce
    ) -> Tensor:
        out = (x - _column(mean, x)) * _column(inv_std, x)
        ctx.save_for_backward(out, inv_std, count)
        ctx.reduce = reduce
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        out, inv_std, count = ctx.saved_tensors
        axes = _other_axes(grad)
        sums = torch.stack([grad.sum(axes), (grad * out).sum(axes)])
        mean_grad, mean_product = ctx.reduce(sums) / count
        inner = grad - _column(mean_grad, grad) - out * _column(mean_product, grad)
        return inner * _column(inv_std, grad), None, None, None, None


def _moments(x: Tensor, reduce: Reduce) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and count over all ranks. Two passes: E[x^2] - E[x]^2 loses digits."""
    axes = _other_axes(x)
    here = x.new_tensor([x.numel() / x.shape[1]], dtype=torch.float64)
    sums = reduce(torch.cat([x.sum(axes, dtype=torch.float64), here]))
    count = sums[-1]
    mean = (sums[:-1] / count.clamp(min=1)).to(x.dtype)
    centred = x - _column(mean, x)
    var = reduce((centred * centred).sum(axes, dtype=torch.float64)) / count.clamp(min=1)
    return mean, var.to(x.dtype), count.to(x.dtype)


def _all_reduce(group: dist.ProcessGroup | None) -> Reduce:
    def reduce(x: Tensor) -> Tensor:
        dist.all_reduce(x, group=group)
        return x

    return reduce


def _other_axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]


def _column(x: Tensor, like: Tensor) -> Tensor:
    """(channels,) shaped to broadcast against (batch, channels, ...)."""
    return x.view(1, -1, *[1] * (like.dim() - 2))


def _replace(model: nn.Module, kind: type[LocalBatchNorm]) -> nn.Module:
    """`model` with each SyncBN replaced; a layer registered twice stays one layer."""
    twins: dict[nn.Module, nn.Module] = {}
    for path, layer in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(layer, nn.SyncBatchNorm):
            continue
        if layer not in twins:
            twins[layer] = _twin(layer, kind)
        if not path:
            return twins[layer]
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, twins[layer])
    return model


def _twin(layer: nn.SyncBatchNorm, kind: type[LocalBatchNorm]) -> LocalBatchNorm:
    new = kind(
        layer.num_features,
        eps=layer.eps,
        momentum=layer.momentum,
        affine=layer.affine,
        track_running_stats=layer.track_running_stats,
    )
    new.weight, new.bias = layer.weight, layer.bias
    new.running_mean, new.running_var = layer.running_mean, layer.running_var
    new.num_batches_tracked = layer.num_batches_tracked
    if isinstance(new, GlooSyncBatchNorm):
        new.process_group = layer.process_group
    return new.train(layer.training)
