"""ONNX operators that move numbers, and operators on shapes, which are computed during conversion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from preflight.adapters.pytorch.operator_table import Node, Refused, Value, ints, is_known, operator, tensor, whole

# Operators on shapes.


@operator("Shape")
def _shape(node: Node, inputs: Sequence[Value]) -> Value:
    x = inputs[0]
    return whole(list(x.shape)[node.get("start", 0) : node.get("end", None)])


@operator("Reshape")
def _reshape(node: Node, inputs: Sequence[Value]) -> Value:
    x, shape = inputs
    sizes = ints(shape, "its sizes")
    if is_known(x):
        return x.reshape([int(size) for size in sizes])
    if not node.get("allowzero", 0):
        # 0 keeps the size of the dimension. A symbol is never 0.
        sizes = [
            x.shape[axis] if not isinstance(size, torch.SymInt) and size == 0 else size
            for axis, size in enumerate(sizes)
        ]
    return x.reshape(sizes)


@operator("Flatten")
def _flatten(node: Node, inputs: Sequence[Value]) -> Value:
    axis, x = node.get("axis", 1), inputs[0]
    return x.flatten(1) if axis == 1 else x.reshape([math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


@operator("Transpose")
def _transpose(node: Node, inputs: Sequence[Value]) -> Value:
    (x,) = inputs
    return x.permute(list(node.get("perm", reversed(range(x.dim())))))


@operator("Concat")
def _concat(node: Node, inputs: Sequence[Value]) -> Value:
    if all(is_known(value) for value in inputs):
        return np.concatenate([np.atleast_1d(value) for value in inputs], node.get("axis"))
    if not all(isinstance(value, torch.Tensor) for value in inputs):
        raise Refused("it joins constants and data")
    # In ONNX all parts have one type. Here a part may have been widened to fp32.
    if len({value.dtype for value in inputs}) > 1:
        inputs = [value.float() for value in inputs]
    return torch.cat(list(inputs), node.get("axis"))


@operator("Split")
def _split(node: Node, inputs: Sequence[Value]) -> Value:
    x, given = (*inputs, None)[:2]
    axis = node.get("axis", 0)
    if given is None:
        parts, size = node.get("num_outputs", len(node.outputs)), x.shape[axis]
        most = -(-size // parts)
        sizes = [most] * (parts - 1) + [size - most * (parts - 1)]
    else:
        sizes = ints(given, "its sizes")
    return list(torch.split(x, sizes, axis))


@operator("Slice")
def _slice(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    x, starts, ends, axes, steps = (*inputs, None, None)[:5]
    begins, stops = ints(starts, "its starts"), ints(ends, "its ends")
    along = list(range(len(begins))) if axes is None else ints(axes, "its axes")
    strides = [1] * len(begins) if steps is None else ints(steps, "its steps")
    if any(stride < 1 for stride in strides):
        raise Refused("it has a step that is not positive")
    index = [slice(None)] * x.ndim
    for axis, begin, stop, stride in zip(along, begins, stops, strides, strict=True):
        # ONNX writes "to the end" as the largest integer.
        index[axis] = slice(begin, None if isinstance(stop, int) and stop >= 2**31 - 1 else stop, stride)
    return x[tuple(index)]


@operator("Gather")
def _gather(node: Node, inputs: Sequence[Value]) -> Value:
    x, indices = inputs
    axis = node.get("axis", 0)
    if is_known(x):
        return whole(np.take(x, np.array(ints(indices, "its indices")).reshape(np.shape(indices)), axis))
    if not is_known(indices):
        raise Refused("its indices depend on the data")
    if indices.ndim == 0:
        return x.select(axis, int(indices))
    if indices.ndim != 1:
        raise Refused(f"its indices have {indices.ndim} dimensions")
    return x.index_select(axis, tensor(indices % x.shape[axis], x))


@operator("Squeeze", "Unsqueeze")
def _squeeze(node: Node, inputs: Sequence[Value]) -> Value:
    x, given = (*inputs, None)[:2]
    if given is None:
        raise Refused("it has no axes")
    axes = ints(given, "its axes")
    if node.kind == "Squeeze":
        return np.squeeze(x, tuple(axes)) if is_known(x) else torch.squeeze(x, tuple(axes))
    if is_known(x):
        return np.expand_dims(x, tuple(axes))
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def _expand(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    x, shape = inputs
    sizes = ints(shape, "its sizes")
    # Broadcasting works both ways: a 1 in the shape keeps the input's size, which PyTorch writes as -1.
    sizes = [1] * (x.dim() - len(sizes)) + sizes
    new = len(sizes) - x.dim()
    return x.expand(
        [-1 if at >= new and isinstance(size, int) and size == 1 else size for at, size in enumerate(sizes)]
    )


@operator("ConstantOfShape")
def _constant_of_shape(node: Node, inputs: Sequence[Value]) -> Value:
    value = node.get("value", np.zeros(1, np.float32))
    if value.dtype.kind not in "iu":
        raise Refused("its value is not a whole number")
    return whole(np.full([int(size) for size in ints(inputs[0], "its sizes")], int(value.item()), dtype=object))


@operator("Cast")
def _cast(node: Node, inputs: Sequence[Value]) -> Value:
    (x,) = inputs
    kind = _TYPES.get(node.get("to"))
    if kind is None:
        raise Refused(f"it casts to type {node.get('to')}")
    if is_known(x):
        if kind not in (torch.int32, torch.int64, torch.bool):
            raise Refused("a size of the input is used as a number")
        return x
    if isinstance(x, float):
        return x
    # fp32 in the file means the engine's precision. A value that was widened stays wide.
    return x.to(kind) if not kind.is_floating_point else (x if x.is_floating_point() else x.to(torch.float32))


_TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64}
"""Type numbers of onnx.TensorProto -> PyTorch types."""
