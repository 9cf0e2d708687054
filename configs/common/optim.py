import torch
from detectron2.config import LazyCall as L

from d2_unsupdet.engine.lars import LARS as _LARS
from d2_unsupdet.engine.optim import parameter_groups

# Decay on every parameter, as MoCo and SimSiam train.
SGD = L(torch.optim.SGD)(
    params=L(parameter_groups)(base_lr="${..lr}", weight_decay="${..weight_decay}"),
    lr=0.03,
    momentum=0.9,
    weight_decay=1e-4,
)

# Detectron2's finetuning: no decay on normalisation layers.
SGD_finetune = L(torch.optim.SGD)(
    params=L(parameter_groups)(
        base_lr="${..lr}", weight_decay="${..weight_decay}", norm_weight_decay=0.0
    ),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)

AdamW = L(torch.optim.AdamW)(
    params=L(parameter_groups)(base_lr="${..lr}", weight_decay="${..weight_decay}"),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)

# Alone, and inside a pretext.
_BACKBONE = r"^(detector\.)?backbone\."

# The DETR family decays every parameter, and trains the backbone at a tenth of the rate.
AdamW_detr = L(torch.optim.AdamW)(
    params=L(parameter_groups)(
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        rules=[{"match": _BACKBONE, "lr_factor": 0.1}],
    ),
    lr=1e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)

# Deformable DETR and DETA: so too what says where attention looks (two-stage: the offsets alone).
AdamW_deformable = L(torch.optim.AdamW)(
    params=L(parameter_groups)(
        base_lr="${..lr}",
        weight_decay="${..weight_decay}",
        rules=[
            {"match": _BACKBONE, "lr_factor": 0.1},
            {
                "match": r"sampling_offsets|^(detector\.)?query_source\.reference\.",
                "lr_factor": 0.1,
            },
        ],
    ),
    lr=2e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
)

LARS = L(_LARS)(
    params=L(parameter_groups)(base_lr="${..lr}", weight_decay="${..weight_decay}"),
    lr=1.6,  # 0.1 * batch 4096 / 256
    momentum=0.9,
    weight_decay=0.0,
)
