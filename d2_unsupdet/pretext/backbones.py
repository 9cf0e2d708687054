"""What every method asks of the backbone it pretrains, and what it hands on of it."""

from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from torch import Tensor

from d2_unsupdet.errors import UserError, nearest


def level_channels(backbone: Backbone, level: str) -> int:
    """Channels of one output, or an error that names the outputs there are."""
    shapes = backbone.output_shape()
    if level not in shapes:
        raise UserError(
            f"The backbone has no output '{level}', only {sorted(shapes)}; "
            f"add it to the backbone's out_features.{nearest(level, shapes)}"
        )
    return shapes[level].channels


def refuse_frozen(backbone: Backbone) -> None:
    """Detectron2's defaults freeze two stages and every norm: meant for pretrained weights."""
    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    frozen += [n for n, m in backbone.named_modules() if isinstance(m, FrozenBatchNorm2d)]
    if frozen:
        raise UserError(
            f"The backbone to pretrain has {len(frozen)} frozen parts, for example '{frozen[0]}'; "
            "set freeze_at to 0 and norm to 'BN' or 'SyncBN'."
        )


def export_backbone(backbone: Backbone) -> dict[str, Tensor]:
    """Weights and BN statistics under bare ResNet names (`res2.0.conv1.weight`)."""
    return {name: value.detach().clone() for name, value in backbone.state_dict().items()}
