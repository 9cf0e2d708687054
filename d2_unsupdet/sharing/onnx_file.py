"""A detector as an ONNX file that answers as the detector does, or no file.

The graph goes through torch.export; the answers of onnxruntime are compared with those of the
detector on several pictures, and the file is written, atomically, when they agree.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import d2_unsupdet.sharing.onnx_rcnn  # noqa: F401  (registers its detectors)
from d2_unsupdet.availability import is_installed
from d2_unsupdet.checkpoint.files import atomic_write
from d2_unsupdet.detectors.deformable_attention import use_implementation
from d2_unsupdet.errors import UserError
from d2_unsupdet.sharing.onnx_compare import (
    BOX_TOLERANCE,
    SCORE_TOLERANCE,
    Difference,
    Found,
    compare,
)
from d2_unsupdet.sharing.onnx_detectors import on_canvas
from d2_unsupdet.sharing.onnx_operators import translations

Size = tuple[int, int]
INPUTS, OUTPUTS = ("image", "size"), ("boxes", "scores", "labels")
LIMIT = 2**31 - 2**20  # of one protobuf message


@dataclass(frozen=True)
class Exported:
    """What was written and how far onnxruntime is from the detector, picture by picture."""

    path: Path
    size: int
    differences: list[Difference]


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    canvas: Size,
    pictures: Sequence[np.ndarray],
    about: Mapping[str, str] | None = None,
) -> Exported:
    """Write `model` to `path` for pictures on a canvas of that size.

    Args:
        model: a detector in evaluation, on the CPU.
        path: ends in .onnx.
        canvas: (height, width).
        pictures: RGB, uint8 (h, w, 3), of any size, to compare answers on.
        about: text kept in the file beside its input's size and channel order.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if not is_installed(package):
            raise UserError(
                f"An ONNX file needs {package}: pip install onnx onnxscript onnxruntime."
            )
    path = Path(path)
    if path.suffix != ".onnx":
        raise UserError(f"Cannot write {path}: its suffix must be .onnx.")
    if not path.resolve().parent.is_dir():
        raise UserError(f"Cannot write {path}: there is no folder {path.parent}.")
    _check_canvas(model, canvas)
    if not pictures:
        raise UserError(
            "An ONNX file is compared with its detector before it is written: give pictures."
        )
    content = _serialised(model, canvas, about or {})
    differences = _compared(model, content, canvas, pictures)
    atomic_write(path, lambda file: file.write(content))
    return Exported(path, len(content), differences)


def fit(picture: np.ndarray, canvas: Size, *, bgr: bool = False) -> tuple[np.ndarray, Size]:
    """A picture on the canvas, as large as it can be: (3, H, W), and its (height, width) there."""
    height, width = picture.shape[:2]
    scale = min(canvas[0] / height, canvas[1] / width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    resized = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR)
    result = np.zeros((3, *canvas), dtype=np.uint8)
    channels = np.asarray(resized).transpose(2, 0, 1)
    result[:, : size[0], : size[1]] = channels[::-1] if bgr else channels
    return result, size


def _check_canvas(model: Any, canvas: Size) -> None:
    part = max(getattr(model, "size_divisibility", 0), _divisor(model), 1)
    if min(canvas) < 32 or any(side % part for side in canvas):
        raise UserError(
            f"--size {canvas[0]}x{canvas[1]} does not fit {type(model).__name__}: both sides have "
            f"to be 32 or more" + (f" and multiples of {part}." if part > 1 else ".")
        )


def _divisor(model: Any) -> int:
    """Backbones with an FPN say what the sides of a batch have to be multiples of."""
    return int(getattr(getattr(model, "backbone", None), "size_divisibility", 0) or 0)


def _serialised(model: Any, canvas: Size, about: Mapping[str, str]) -> bytes:
    wrapped = on_canvas(model.to(memory_format=torch.contiguous_format))
    # Not a full canvas: a graph that were made of one might take the padding for granted.
    example = torch.zeros(3, *canvas, dtype=torch.uint8), torch.tensor(canvas) - 8
    try:
        with torch.no_grad(), use_implementation("reference"):
            program = torch.export.export(wrapped, example, strict=False)
            made = torch.onnx.export(
                program,
                input_names=INPUTS,
                output_names=OUTPUTS,
                dynamo=True,
                custom_translation_table=translations(),
                verbose=False,
            )
    except Exception as error:
        raise UserError(
            f"{type(model).__name__} could not be exported ({_cause(error)}); nothing was written."
        ) from error
    assert made is not None
    proto = made.model_proto
    for node in _every_node(proto):
        del node.metadata_props[:]  # stack traces with the paths of this machine
        node.doc_string = ""
    told = {
        "canvas": json.dumps(list(canvas)),
        "input_format": getattr(model, "input_format", "RGB"),
        **about,
    }
    for key, value in told.items():
        proto.metadata_props.add(key=key, value=value)
    if proto.ByteSize() > LIMIT:
        raise UserError("The detector is larger than the 2 GB that one ONNX file can hold.")
    return proto.SerializeToString()


def _cause(error: BaseException) -> str:
    """The exporter wraps what went wrong in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _every_node(proto: Any) -> list[Any]:
    graphs, nodes = [proto.graph, *proto.functions], []
    while graphs:
        for node in graphs.pop().node:
            nodes.append(node)
            graphs += [a.g for a in node.attribute if a.HasField("g")]
    return nodes


def _compared(
    model: Any, content: bytes, canvas: Size, pictures: Sequence[np.ndarray]
) -> list[Difference]:
    """A UserError where an answer of onnxruntime is not the detector's own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    bgr, differences = getattr(model, "input_format", "RGB") == "BGR", []
    for number, picture in enumerate(pictures):
        image, size = fit(picture, canvas, bgr=bgr)
        feed = {"image": image, "size": np.array(size, dtype=np.int64)}
        theirs = Found(*session.run(list(OUTPUTS), feed))
        differences.append(compare(own_answer(model, image, size), theirs, size))
        if not differences[-1].fine:
            raise UserError(
                f"onnxruntime answers picture {number} differently: {differences[-1].unmatched} of "
                f"{differences[-1].count} detections have no partner within {SCORE_TOLERANCE:g} of "
                f"the score and {BOX_TOLERANCE:g} of the side; nothing was written."
            )
    if not any(one.matched for one in differences):
        raise UserError(
            f"The detector finds nothing in any of the {len(pictures)} pictures, so there is "
            "nothing to compare: give pictures in which it finds something."
        )
    return differences


@torch.no_grad()
def own_answer(model: Any, image: np.ndarray, size: Size) -> Found:
    """The detector's answer for a picture in a batch that is padded to the canvas."""
    canvas = torch.from_numpy(image)
    inner = canvas[:, : size[0], : size[1]].contiguous()
    batch = [{"image": inner, "height": size[0], "width": size[1]}]
    if tuple(canvas.shape[-2:]) != size:
        batch.append({"image": torch.zeros_like(canvas)})
    found = model(batch)[0]["instances"].to("cpu")
    parts = found.pred_boxes.tensor, found.scores, found.pred_classes
    return Found(*(part.numpy() for part in parts))
