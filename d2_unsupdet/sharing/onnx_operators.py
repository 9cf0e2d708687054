"""Operators of our detectors that PyTorch's ONNX exporter does not know, in ONNX's own words."""

from typing import Any

import torch

import d2_unsupdet.detectors.suppression  # noqa: F401  (registers the operator)


def translations() -> dict[Any, Any]:
    """For `torch.onnx.export(custom_translation_table=...)`."""
    return {
        torch.ops.aten.sort.stable: _stable_sort,
        torch.ops.d2_unsupdet.grouped_nms.default: _grouped_nms,
    }


FLOAT = 1  # of ONNX's TensorProto


def _opset() -> Any:
    """Untyped: the exporter hands over values that onnxscript's annotations do not know."""
    import onnxscript

    return onnxscript.opset18


def _stable_sort(
    self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Any:
    """TopK of all: among equals it takes the lower index first, as a stable sort does."""
    op = _opset()
    # onnxruntime sorts neither bool nor int8; what is sorted here fits a float.
    numbers = op.Cast(self, to=FLOAT)
    count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]), axis=0)
    values, order = op.TopK(numbers, count, axis=dim, largest=int(descending), sorted=1)
    return op.CastLike(values, self), order


def _grouped_nms(boxes: Any, scores: Any, groups: Any, threshold: float) -> Any:
    """ONNX suppresses within classes: a table of classes and boxes, nothing where they differ."""
    op = _opset()
    boxes, scores = op.Cast(boxes, to=FLOAT), op.Cast(scores, to=FLOAT)
    first, second = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    end = op.Add(op.ReduceMax(groups, keepdims=0), op.Constant(value_int=1))
    known = op.Range(op.Constant(value_int=0), end, op.Constant(value_int=1))
    own = op.Equal(op.Unsqueeze(known, second), op.Unsqueeze(groups, first))
    table = op.Where(own, op.Unsqueeze(scores, first), op.Constant(value_float=-3e38))
    selected = op.NonMaxSuppression(
        op.Unsqueeze(boxes, first),
        op.Unsqueeze(table, first),
        op.Shape(scores),
        op.Constant(value_floats=[float(threshold)]),
        op.Constant(value_floats=[-1e38]),
    )
    ends = op.Constant(value_ints=[3])
    index = op.Squeeze(op.Slice(selected, op.Constant(value_ints=[2]), ends, second), second)
    found = op.Gather(scores, index)
    _, order = op.TopK(found, op.Shape(found), axis=0)  # they come class by class
    return op.Gather(index, order)
