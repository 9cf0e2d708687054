"""One small table for each known layout of names, all towards Detectron2's names.

To add a layout, add one entry to FORMATS: how to recognise it, what to drop and what to rename.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from d2_unsupdet.errors import UserError, nearest

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Format:
    """A layout of names, as regular expressions.

    Example:
        >>> FORMATS["moco"].to_hub("module.encoder_q.layer1.0.bn1.weight")
        'res2.0.conv1.norm.weight'

    Args:
        about: whose files look like this.
        marks: each of them matches at least one whole name.
        lacks: none of them matches any name.
        prefix: stands before the names that are wanted; names without it are dropped.
        drops: (pattern, reason) for the start of a name behind the prefix.
        renames: (pattern, replacement) pairs, in order: from this layout to Detectron2's.
        back: the same in the other direction; None where nothing is ever written in this layout.
        resnet: whether the renamed tensors must be a whole ResNet.
    """

    name: str
    about: str
    marks: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    prefix: str = ""
    drops: Rules = ()
    renames: Rules = ()
    back: Rules | None = None
    resnet: bool = field(default=True, kw_only=True)

    def fits(self, names: Iterable[str]) -> bool:
        """Whether a file with these names is of this layout."""
        text = "\n".join(names)

        def found(pattern: str) -> bool:
            return re.search(rf"^(?:{pattern})$", text, re.MULTILINE) is not None

        return all(map(found, self.marks)) and not any(map(found, self.lacks))

    def drop_reason(self, name: str) -> str | None:
        """Why a name of this layout is left out, or None for one that is kept."""
        match = re.match(self.prefix, name)
        if match is None:
            return f"outside {_readable(self.prefix)}"
        rest = name[match.end() :]
        return next((why for pattern, why in self.drops if re.match(pattern, rest)), None)

    def to_hub(self, name: str) -> str:
        """The name of a kept tensor in Detectron2's layout."""
        return _apply(self.renames, re.sub(rf"^(?:{self.prefix})", "", name))

    def from_hub(self, name: str) -> str:
        """The name in this layout of one of Detectron2's."""
        assert self.back is not None, self.name
        return _apply(self.back, name)


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


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _readable(pattern: str) -> str:
    return pattern.replace("\\", "").replace("(module.)?", "")
