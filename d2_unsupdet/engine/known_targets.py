"""What a YAML file may call: a config that somebody gives away must not be a program.

Building a config calls whatever its `_target_`s name, so a file could name `os.system`. A `.py`
config and the command line are the user's own code; a YAML file may come from anywhere. Of a YAML
file only these are called: classes of the packages below and a few functions, all of which were
read with this in mind. It is the object found that counts and where it was defined: a module's
imports (`d2_unsupdet.data.catalog.os.system`) are no way round.
"""

import functools
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.utils.registry import locate

from d2_unsupdet.engine import hints
from d2_unsupdet.errors import UserError

VARIABLE = "D2_UNSUPDET_TRUST"
LOCATE = "detectron2.utils.registry.locate"  # how a saved config writes a class that is a value

# Where a name may begin: nothing else is imported to have a look.
LOOKED_IN = (
    "d2_unsupdet.data",
    "d2_unsupdet.detectors",
    "d2_unsupdet.evaluation",
    "d2_unsupdet.pretext",
    "d2_unsupdet.priors",
    "detectron2.data.transforms",
    "detectron2.layers",
    "detectron2.modeling",
    "detectron2.solver",
    "fvcore.common.param_scheduler",
    "fvcore.transforms",
    "torch.nn",
    "torch.optim",
)
# Where a class may be defined. Of priors only what finds and keeps boxes: the rest writes files.
# Not detectron2.engine, .checkpoint, .config, .export, .utils: those read pickles or run programs.
CLASSES_OF = (
    "d2_unsupdet.data",
    "d2_unsupdet.detectors",
    "d2_unsupdet.evaluation",
    "d2_unsupdet.pretext",
    "d2_unsupdet.priors.box_smooth",
    "d2_unsupdet.priors.edge_boxes",
    "d2_unsupdet.priors.eigen_attention",
    "d2_unsupdet.priors.random_boxes",
    "d2_unsupdet.priors.selective_search",
    "d2_unsupdet.priors.stored",
    "detectron2.data.transforms",
    "detectron2.layers",
    "detectron2.modeling",
    "detectron2.solver",
    "fvcore.common.param_scheduler",
    "fvcore.transforms",
    "torch.nn.modules",
    "torch.optim",
)
NOT_OF = ("detectron2.modeling.mmdet_wrapper",)  # builds whatever MMDetection's registry holds
# Functions are a list: others of the same packages read files in any way they are told to.
FUNCTIONS = frozenset(
    {
        "d2_unsupdet.data.catalog.get_dataset",
        "d2_unsupdet.data.loader.build_test_loader",
        "d2_unsupdet.data.loader.build_train_loader",
        "d2_unsupdet.detectors.backbone.detr_stages",
        "d2_unsupdet.detectors.fcn.dilate",
        "d2_unsupdet.detectors.fcn.dilated_stages",
        "d2_unsupdet.detectors.rcnn.res5_stage",
        "d2_unsupdet.detectors.rcnn.stage_channels",
        "d2_unsupdet.engine.optim.parameter_groups",
        "d2_unsupdet.engine.yaml_config.model_from_yaml",
        "d2_unsupdet.evaluation.build.build_evaluator",
        "d2_unsupdet.pretext.correspondence.correspondence",
        "detectron2.modeling.backbone.resnet.ResNet.make_default_stages",
        "detectron2.modeling.backbone.resnet.ResNet.make_stage",
    }
)
_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)
_TRUSTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def check_known(content: Any, source: str) -> None:
    """Raise a UserError unless everything that `content` could call is known.

    Args:
        content: of a YAML file, as it was read: nothing of it is imported or resolved before.
        source: what the sentence calls it.
    """
    trusted = _trusted()
    for path, node in _walk(content, source):
        if isinstance(node, str):
            _check_reference(path, node, source)
        elif "_target_" in node:
            _check_target(path, node, trusted, source)


def check_plain(content: Any, source: str) -> None:
    """Raise a UserError if `content`, whose format knows no calls, holds one or a reference."""
    for path, node in _walk(content, source):
        if isinstance(node, str) and "${" not in node:
            continue
        if isinstance(node, str) or "_target_" in node:
            what = repr(node) if isinstance(node, str) else "a '_target_'"
            raise UserError(
                f"{source}: {path} holds {what}, which Detectron2's YAML does not know."
            )


def is_known(name: str, trusted: tuple[str, ...] = ()) -> bool:
    """Whether `name` may be called; it is looked up only where it says it is of a known package."""
    if any(_within(name, package) for package in trusted):
        found = _found(name) if _TRUSTED_NAME.fullmatch(name) else None
        home = str(getattr(found, "__module__", ""))
        return any(_within(home, package) for package in trusted) or _is_known_object(found)
    looked = name in FUNCTIONS or any(_within(name, package) for package in LOOKED_IN)
    return looked and _NAME.fullmatch(name) is not None and _is_known_object(_found(name))


def _is_known_object(found: Any) -> bool:
    home = str(getattr(found, "__module__", ""))
    own = str(getattr(found, "__qualname__", ""))
    if not inspect.isclass(found):
        return f"{home}.{own}" in FUNCTIONS
    if "." in own or own.startswith("_") or any(_within(home, package) for package in NOT_OF):
        return False
    return any(_within(home, package) for package in CLASSES_OF)


@functools.cache
def _found(name: str) -> Any:
    """What `detectron2.config.instantiate` would call; a name that is none has its own sentence."""
    try:
        return locate(name)
    except Exception as error:  # an import runs code, which can raise anything
        raise UserError(
            f"_target_='{name}' cannot be imported: {hints.why_not(name)}.{hints.of_target(name)}"
        ) from error


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _trusted() -> tuple[str, ...]:
    given = os.environ.get(VARIABLE, "").split(",")
    return tuple(package.strip() for package in given if package.strip())


def _check_target(
    path: str, node: Mapping[Any, Any], trusted: tuple[str, ...], source: str
) -> None:
    target = node["_target_"]
    if target == LOCATE and node.keys() == {"_target_", "name"}:
        target = node["name"]
    if not isinstance(target, str):
        raise UserError(f"{source}: {path}._target_ is {target!r}; write the name of a class.")
    try:
        known = is_known(target, trusted)
    except UserError as error:
        raise UserError(f"{source}: {path}.{error}") from error
    if known:
        return
    raise UserError(
        f"{source}: {path}._target_='{target}' is no part that a YAML file may call, since it "
        "could run any code. If you trust the file, repeat with --allow-unsafe, or name the "
        f"package that is yours in the environment: {VARIABLE}={target.split('.')[0]}."
    )


def _check_reference(path: str, text: str, source: str) -> None:
    """`${train.seed}` is fine; with a colon it asks OmegaConf to compute, or to read secrets."""
    _, begins, rest = text.partition("${")
    if begins and ":" in rest:
        raise UserError(
            f"{source}: {path}={text!r} asks for more than another key of the file, such as a "
            "variable of the environment; write the value itself, or, if you trust the file, "
            "repeat with --allow-unsafe."
        )


def _walk(content: Any, source: str) -> Iterator[tuple[str, Any]]:
    """Every text and every mapping with its dotted path; one that YAML repeats, once."""
    seen: set[int] = set()
    rest: list[tuple[str, Any]] = [("", content)]
    while rest:
        path, node = rest.pop()
        if isinstance(node, str):
            yield path, node
            continue
        if not isinstance(node, (Mapping, list, tuple)) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Mapping):
            yield path or "the file", node
            below = [(str(key), value) for key, value in node.items()]
        else:
            below = [(str(index), value) for index, value in enumerate(node)]
        rest += [(f"{path}.{key}" if path else key, value) for key, value in reversed(below)]
