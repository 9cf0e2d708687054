"""One small table for each known layout of names, all towards Detectron2's names.

To add a layout, add one entry to FORMATS: how to recognise it, what to drop and what to rename.
Those of whole DETR-style detectors stand in detr_names.py, huggingface.py and pretext_names.py.
"""

from collections.abc import Iterable

from d2_unsupdet.checkpoint.detr_names import OFFICIAL, PREFIX
from d2_unsupdet.checkpoint.huggingface import HUGGING_FACE
from d2_unsupdet.checkpoint.layout import Format, Rules
from d2_unsupdet.checkpoint.pretext_names import PRETEXTS
from d2_unsupdet.errors import UserError, nearest

_FROM_TORCHVISION: Rules = (
    (r"^(?!layer\d)", "stem."),
    *((rf"^layer{i}\.", rf"res{i + 1}.") for i in range(1, 5)),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
)
_TO_TORCHVISION: Rules = (
    (r"^stem\.", ""),
    *((rf"^res{i + 1}\.", rf"layer{i}.") for i in range(1, 5)),
    (r"\bshortcut\.norm\.", "downsample.1."),
    (r"\bshortcut\.", "downsample.0."),
    (r"\bconv(\d)\.norm\.", r"bn\1."),
)
_CONV = r"(conv1|layer\d\.\d+\.conv1)\.weight"  # in whatever is left of a truncated file
_HEAD: Rules = ((r"fc\.", "head on the backbone"),)
_SWAV_ONLY = r"(module\.)?(projection_head|prototypes)\..*"

HUB = "detectron2"

FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            HUB,
            "Detectron2 and our own exports: a bare ResNet or a whole detector with one",
            marks=(r"(.*\.)?(stem\.conv1|res[2-5]\.\d+\.conv1)\.weight",),
            lacks=(rf"{PREFIX}transformer\.decoder\..*",),  # DETR's wrapper has such a backbone
            back=(),
        ),
        Format(
            "torchvision",
            "torchvision's ResNet, also from its distributed training (module.)",
            marks=(rf"(module\.)?{_CONV}",),
            lacks=(_SWAV_ONLY,),
            prefix=r"(module\.)?",
            drops=_HEAD,
            renames=_FROM_TORCHVISION,
            back=_TO_TORCHVISION,
        ),
        Format(
            "moco",
            "MoCo v1, v2 and their descendants: the query encoder",
            marks=(rf"(module\.)?encoder_q\.{_CONV}",),
            prefix=r"(module\.)?encoder_q\.",
            drops=_HEAD,
            renames=_FROM_TORCHVISION,
        ),
        Format(
            "simsiam",
            "SimSiam, also PixPro: the encoder",
            marks=(rf"(module\.)?encoder\.{_CONV}",),
            prefix=r"(module\.)?encoder\.",
            drops=_HEAD,
            renames=_FROM_TORCHVISION,
        ),
        Format(
            "swav",
            "SwAV: a ResNet with a projection head and prototypes",
            marks=(rf"(module\.)?{_CONV}", _SWAV_ONLY),
            prefix=r"(module\.)?",
            drops=(
                *_HEAD,
                (r"projection_head\.", "projection head"),
                (r"prototypes\.", "prototypes"),
            ),
            renames=_FROM_TORCHVISION,
        ),
        *OFFICIAL,
        *HUGGING_FACE,
        *PRETEXTS,
    )
}


def get_format(name: str) -> Format:
    """A format by its name; a UserError names the nearest one."""
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise UserError(f"Unknown format {name!r}, known are {known}.{nearest(name, FORMATS)}")
    return FORMATS[name]


def detect(names: Iterable[str]) -> Format:
    """The one format that fits these names (a state dict will do); otherwise a UserError."""
    names = list(names)
    fitting = [entry for entry in FORMATS.values() if entry.fits(names)]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(names[:4])
    if fitting:
        several = " and ".join(entry.name for entry in fitting)
        raise UserError(f"The names ({shown}, ...) fit {several}: say which one with --from.")
    raise UserError(
        f"The names ({shown}, ...) fit no known layout ({', '.join(FORMATS)}); if it is one of "
        "them under another prefix, remove the prefix."
    )
