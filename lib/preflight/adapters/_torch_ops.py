"""ONNX operators as PyTorch functions: a table, and nothing outside it.

Semantics: https://onnx.ai/onnx/operators, for the opsets 13 to 20. A value is a tensor, a `float` (a constant of one
element), or a numpy array of objects: whole numbers known while the graph is converted, such as shapes, some of them
the exporter's symbols for a dynamic size.

Numbers are computed as automatic mixed precision does it: products (convolutions, matrix products, normalisations) in the
precision of the engine; sums over an axis and powers, which leave the range of 16-bit floats first, in fp32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

__all__ = ["OPERATORS", "Node", "Refused", "Value", "whole"]

Value = Any
"""A tensor, a float, or a numpy array of whole numbers."""


class Refused(Exception):  # noqa: N818 - turned into EngineBuildError by who knows the file and the node
    """An attribute or input this table does not cover."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph. attributes: as Python values, tensors as numpy arrays. dtype: of the engine's products."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    dtype: Any

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - ONNX attributes are of many types
        """An attribute."""
        return self.attributes.get(name, default)


Function = Callable[[Node, Sequence[Value]], Any]
OPERATORS: dict[str, Function] = {}
"""Operator -> function of a node and its input values (None for one left out); several outputs come as a list."""


def _operator(*kinds: str) -> Callable[[Function], Function]:
    def enter(function: Function) -> Function:
        for kind in kinds:
            OPERATORS[kind] = function
        return function

    return enter


def whole(numbers: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401 - anything numpy takes
    """Whole numbers as the table carries them."""
    return np.array(numbers, dtype=object)


def _is_known(value: Value) -> bool:
    return isinstance(value, np.ndarray)


def _tensor(value: Value, like: Any) -> Any:  # noqa: ANN401
    """A value beside a tensor, on its device; floats stay as they are, so that they do not widen its type."""
    if not _is_known(value):
        return value
    if any(not isinstance(item, (int, bool, np.integer, np.bool_)) for item in value.flat):
        raise Refused("a size of the input is used as a number")
    return torch.tensor(value.tolist(), device=like.device)


def _ints(value: Value, what: str) -> list[Any]:
    """The numbers of a shape or of axes."""
    if not _is_known(value):
        raise Refused(f"{what} depend on the data")
    return [item if isinstance(item, torch.SymInt) else int(item) for item in np.atleast_1d(value)]


def _product(node: Node, value: Value) -> Any:  # noqa: ANN401
    """A value as products are computed."""
    return value if value.dtype == node.dtype else value.to(node.dtype)


def _only(node: Node, **allowed: Any) -> None:  # noqa: ANN401
    """Refuse attributes with other values than the ones given; absent ones have them."""
    for name, value in allowed.items():
        found = node.get(name, value)
        if found != value:
            raise Refused(f"{name} = {found.decode() if isinstance(found, bytes) else found}")


# One input, element by element.

_UNARY: dict[str, Callable[[Any], Any]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Log": torch.log,
    "Neg": torch.neg,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}
_UNARY_FLOAT = {"Sqrt": math.sqrt, "Reciprocal": lambda x: 1 / x, "Neg": lambda x: -x, "Exp": math.exp, "Log": math.log}


@_operator(*_UNARY)
def _unary(node: Node, inputs: Sequence[Value]) -> Value:
    (x,) = inputs
    if isinstance(x, float):
        if node.kind not in _UNARY_FLOAT:
            raise Refused("its input is a constant")
        return _UNARY_FLOAT[node.kind](x)
    return -x if _is_known(x) else _UNARY[node.kind](x)


@_operator("Identity", "Dropout")
def _identity(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    return inputs[0]


@_operator("Elu", "LeakyRelu", "Selu", "HardSigmoid", "Gelu")
def _activation(node: Node, inputs: Sequence[Value]) -> Value:
    x = inputs[0]
    if node.kind == "Elu":
        return F.elu(x, node.get("alpha", 1.0))
    if node.kind == "LeakyRelu":
        return F.leaky_relu(x, node.get("alpha", 0.01))
    if node.kind == "HardSigmoid":
        return torch.clamp(x * node.get("alpha", 0.2) + node.get("beta", 0.5), 0, 1)
    if node.kind == "Gelu":
        return F.gelu(x, approximate=node.get("approximate", b"none").decode())
    # PyTorch has the numbers of ONNX's defaults built in.
    alpha, gamma = node.get("alpha", 1.6732632), node.get("gamma", 1.0507010)
    if not (math.isclose(alpha, 1.6732632, rel_tol=1e-6) and math.isclose(gamma, 1.0507010, rel_tol=1e-6)):
        raise Refused(f"alpha = {alpha}, gamma = {gamma}")
    return F.selu(x)


@_operator("PRelu")
def _prelu(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    x, slope = inputs
    return torch.where(x < 0, x * slope, x)


# Two inputs, element by element.


def _divide(a: Value, b: Value) -> Value:
    floats = isinstance(a, float) or isinstance(b, float) or a.is_floating_point()
    return a / b if floats else torch.div(a, b, rounding_mode="trunc")


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Equal": lambda a, b: a == b,
    "Greater": lambda a, b: a > b,
    "Less": lambda a, b: a < b,
    "And": lambda a, b: a & b,
    "Or": lambda a, b: a | b,
}


@_operator(*_BINARY)
def _binary(node: Node, inputs: Sequence[Value]) -> Value:
    a, b = inputs
    if _is_known(a) and _is_known(b):
        return whole(a // b if node.kind == "Div" else _BINARY[node.kind](a, b))
    like = b if _is_known(a) or isinstance(a, float) else a
    return _BINARY[node.kind](_tensor(a, like), _tensor(b, like))


@_operator("Pow")
def _pow(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    x, power = inputs
    if isinstance(x, float):
        raise Refused("its base is a constant")
    exponent = power if isinstance(power, float) or not _is_known(power) else float(power.item())
    return torch.pow(x.float(), exponent)


@_operator("Min", "Max")
def _extreme(node: Node, inputs: Sequence[Value]) -> Value:
    function = torch.minimum if node.kind == "Min" else torch.maximum
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    if len(tensors) != len(inputs):
        raise Refused("one of its inputs is a constant")
    return functools.reduce(function, tensors)


@_operator("Clip")
def _clip(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    x, *bounds = inputs
    least, most = (*bounds, None, None)[:2]
    if any(bound is not None and not isinstance(bound, float) for bound in (least, most)):
        raise Refused("its bounds are no constants")
    return x if least is None and most is None else torch.clamp(x, least, most)


@_operator("Where")
def _where(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    condition, a, b = inputs
    if _is_known(condition):
        if not (_is_known(a) and _is_known(b)):
            raise Refused("its condition is a constant")
        return whole(np.where(condition.astype(bool), a, b))
    return torch.where(condition, _tensor(a, condition), _tensor(b, condition))


# Products.


def _window(node: Node, dims: int) -> tuple[list[int], list[int], list[int]]:
    """strides, pads (begin, end for each dimension in turn, last dimension first, as `F.pad` takes them), dilations."""
    _only(node, auto_pad=b"NOTSET", ceil_mode=0)
    strides = list(node.get("strides", [1] * dims))
    pads = list(node.get("pads", [0] * 2 * dims))
    around = [pads[axis + side * dims] for axis in reversed(range(dims)) for side in (0, 1)]
    return strides, around, list(node.get("dilations", [1] * dims))


def _even(around: list[int]) -> list[int] | None:
    """The padding of each dimension, first to last, where both ends have the same."""
    begins, ends = around[::2], around[1::2]
    return begins[::-1] if begins == ends else None


@_operator("Conv")
def _conv(node: Node, inputs: Sequence[Value]) -> Value:
    x, kernel, bias = (*inputs, None)[:3]
    dims = kernel.dim() - 2
    if dims not in (1, 2, 3):
        raise Refused(f"{dims} dimensions")
    strides, around, dilations = _window(node, dims)
    padding = _even(around)
    x = _product(node, x)
    if padding is None:
        x, padding = F.pad(x, around), [0] * dims
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    return function(x, kernel, bias, strides, padding, dilations, node.get("group", 1))


@_operator("MaxPool", "AveragePool")
def _pool(node: Node, inputs: Sequence[Value]) -> Value:
    (x,) = inputs
    size = list(node.get("kernel_shape"))
    if len(size) != 2 or len(node.outputs) != 1:
        raise Refused("only two dimensions and one output are covered")
    strides, around, dilations = _window(node, 2)
    padding = _even(around)
    if node.kind == "MaxPool":
        if padding is None or any(2 * pad > wide for pad, wide in zip(padding, size, strict=True)):
            x, padding = F.pad(x, around, value=-math.inf), [0, 0]
        return F.max_pool2d(x, size, strides, padding, dilations)
    if dilations != [1, 1] or padding is None:
        raise Refused("dilations or uneven pads")
    return F.avg_pool2d(x, size, strides, padding, count_include_pad=bool(node.get("count_include_pad", 0)))


@_operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: Node, inputs: Sequence[Value]) -> Value:
    (x,) = inputs
    axes = tuple(range(2, x.dim()))
    return x.float().mean(axes, keepdim=True) if node.kind == "GlobalAveragePool" else x.amax(axes, keepdim=True)


@_operator("MatMul")
def _matmul(node: Node, inputs: Sequence[Value]) -> Value:
    a, b = inputs
    return torch.matmul(_product(node, a), _product(node, b))


@_operator("Gemm")
def _gemm(node: Node, inputs: Sequence[Value]) -> Value:
    a, b, c = (*inputs, None)[:3]
    a, b = _product(node, a), _product(node, b)
    a = a.transpose(0, 1) if node.get("transA", 0) else a
    b = b.transpose(0, 1) if node.get("transB", 0) else b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = torch.matmul(a, b)
    product = product if alpha == 1 else product * alpha
    return product if c is None else product + (c if beta == 1 else c * beta)


@_operator("Softmax", "LogSoftmax")
def _softmax(node: Node, inputs: Sequence[Value]) -> Value:
    function = F.softmax if node.kind == "Softmax" else F.log_softmax
    return function(inputs[0], dim=node.get("axis", -1))


@_operator("LayerNormalization")
def _layer_norm(node: Node, inputs: Sequence[Value]) -> Value:
    x, scale, bias = (*inputs, None)[:3]
    axis = node.get("axis", -1)
    if axis not in (-1, x.dim() - 1) or len(node.outputs) != 1:
        raise Refused(f"axis = {axis} with {len(node.outputs)} outputs")
    return F.layer_norm(_product(node, x), (x.shape[-1],), scale, bias, node.get("epsilon", 1e-5))


@_operator("BatchNormalization")
def _batch_norm(node: Node, inputs: Sequence[Value]) -> Value:
    _only(node, training_mode=0)
    x, scale, bias, mean, variance = inputs
    return F.batch_norm(_product(node, x), mean, variance, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


@_operator("InstanceNormalization")
def _instance_norm(node: Node, inputs: Sequence[Value]) -> Value:
    x, scale, bias = inputs
    return F.instance_norm(_product(node, x), None, None, scale, bias, eps=node.get("epsilon", 1e-5))


# Sums over axes, in fp32.

_REDUCE: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL2": lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim),
    "ReduceSumSquare": lambda x, axes, keepdim: torch.sum(x * x, axes, keepdim),
}


@_operator(*_REDUCE)
def _reduce(node: Node, inputs: Sequence[Value]) -> Value:
    x, given = (*inputs, None)[:2]
    axes = node.get("axes") if given is None else _ints(given, "its axes")
    if not axes:
        if node.get("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.dim()))
    x = x.float() if x.is_floating_point() else x
    return _REDUCE[node.kind](x, list(axes), keepdim=bool(node.get("keepdims", 1)))


# Shapes.


@_operator("Shape")
def _shape(node: Node, inputs: Sequence[Value]) -> Value:
    x = inputs[0]
    return whole(list(x.shape)[node.get("start", 0) : node.get("end", None)])


@_operator("Reshape")
def _reshape(node: Node, inputs: Sequence[Value]) -> Value:
    x, shape = inputs
    sizes = _ints(shape, "its sizes")
    if _is_known(x):
        return x.reshape([int(size) for size in sizes])
    if not node.get("allowzero", 0):
        # 0 keeps the dimension; a symbol is never 0.
        sizes = [
            x.shape[axis] if not isinstance(size, torch.SymInt) and size == 0 else size
            for axis, size in enumerate(sizes)
        ]
    return x.reshape(sizes)


@_operator("Flatten")
def _flatten(node: Node, inputs: Sequence[Value]) -> Value:
    axis, x = node.get("axis", 1), inputs[0]
    return x.flatten(1) if axis == 1 else x.reshape([math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


@_operator("Transpose")
def _transpose(node: Node, inputs: Sequence[Value]) -> Value:
    (x,) = inputs
    return x.permute(list(node.get("perm", reversed(range(x.dim())))))


@_operator("Concat")
def _concat(node: Node, inputs: Sequence[Value]) -> Value:
    if all(_is_known(value) for value in inputs):
        return np.concatenate([np.atleast_1d(value) for value in inputs], node.get("axis"))
    if not all(isinstance(value, torch.Tensor) for value in inputs):
        raise Refused("constants are joined to data")
    # ONNX joins one type; here a part may have been widened to fp32.
    if len({value.dtype for value in inputs}) > 1:
        inputs = [value.float() for value in inputs]
    return torch.cat(list(inputs), node.get("axis"))


@_operator("Split")
def _split(node: Node, inputs: Sequence[Value]) -> Value:
    x, given = (*inputs, None)[:2]
    axis = node.get("axis", 0)
    if given is None:
        parts, size = node.get("num_outputs", len(node.outputs)), x.shape[axis]
        most = -(-size // parts)
        sizes = [most] * (parts - 1) + [size - most * (parts - 1)]
    else:
        sizes = _ints(given, "its sizes")
    return list(torch.split(x, sizes, axis))


@_operator("Slice")
def _slice(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    x, starts, ends, axes, steps = (*inputs, None, None)[:5]
    begins, stops = _ints(starts, "its starts"), _ints(ends, "its ends")
    along = list(range(len(begins))) if axes is None else _ints(axes, "its axes")
    strides = [1] * len(begins) if steps is None else _ints(steps, "its steps")
    if any(stride < 1 for stride in strides):
        raise Refused("a step that is not positive")
    index = [slice(None)] * x.ndim
    for axis, begin, stop, stride in zip(along, begins, stops, strides, strict=True):
        # ONNX writes "to the end" as the greatest number there is.
        index[axis] = slice(begin, None if isinstance(stop, int) and stop >= 2**31 - 1 else stop, stride)
    return x[tuple(index)]


@_operator("Gather")
def _gather(node: Node, inputs: Sequence[Value]) -> Value:
    x, indices = inputs
    axis = node.get("axis", 0)
    if _is_known(x):
        return whole(np.take(x, np.array(_ints(indices, "its indices")).reshape(np.shape(indices)), axis))
    if not _is_known(indices):
        raise Refused("its indices depend on the data")
    if indices.ndim == 0:
        return x.select(axis, int(indices))
    if indices.ndim != 1:
        raise Refused(f"indices of {indices.ndim} dimensions")
    return x.index_select(axis, _tensor(indices % x.shape[axis], x))


@_operator("Squeeze", "Unsqueeze")
def _squeeze(node: Node, inputs: Sequence[Value]) -> Value:
    x, given = (*inputs, None)[:2]
    if given is None:
        raise Refused("without axes")
    axes = _ints(given, "its axes")
    if node.kind == "Squeeze":
        return np.squeeze(x, tuple(axes)) if _is_known(x) else torch.squeeze(x, tuple(axes))
    if _is_known(x):
        return np.expand_dims(x, tuple(axes))
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@_operator("Expand")
def _expand(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    x, shape = inputs
    sizes = _ints(shape, "its sizes")
    # Both ways: a 1 of the shape keeps what the input has there, which PyTorch writes as -1.
    sizes = [1] * (x.dim() - len(sizes)) + sizes
    new = len(sizes) - x.dim()
    return x.expand(
        [-1 if at >= new and isinstance(size, int) and size == 1 else size for at, size in enumerate(sizes)]
    )


@_operator("ConstantOfShape")
def _constant_of_shape(node: Node, inputs: Sequence[Value]) -> Value:
    value = node.get("value", np.zeros(1, np.float32))
    if value.dtype.kind not in "iu":
        raise Refused("a constant that is no whole number")
    return whole(np.full([int(size) for size in _ints(inputs[0], "its sizes")], int(value.item()), dtype=object))


@_operator("Cast")
def _cast(node: Node, inputs: Sequence[Value]) -> Value:
    (x,) = inputs
    kind = _TYPES.get(node.get("to"))
    if kind is None:
        raise Refused(f"to type {node.get('to')}")
    if _is_known(x):
        if kind not in (torch.int32, torch.int64, torch.bool):
            raise Refused("a size of the input is used as a number")
        return x
    if isinstance(x, float):
        return x
    # The file's fp32 is the engine's precision; what was kept wider stays so.
    return x.to(kind) if not kind.is_floating_point else (x if x.is_floating_point() else x.to(torch.float32))


_TYPES = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64}
"""onnx.TensorProto's numbers of the types that occur."""


@_operator("Pad")
def _pad(node: Node, inputs: Sequence[Value]) -> Value:
    x, given, fill, axes = (*inputs, None, None)[:4]
    mode = node.get("mode", b"constant").decode()
    if mode not in ("constant", "reflect") or axes is not None:
        raise Refused(f"mode = {mode}" if axes is None else "with axes")
    pads = _ints(given, "its pads")
    around = [pads[axis + side * x.dim()] for axis in reversed(range(x.dim())) for side in (0, 1)]
    while len(around) > 2 and around[-2:] == [0, 0]:
        around = around[:-2]
    return F.pad(x, around, mode, *((0.0 if fill is None else fill,) if mode == "constant" else ()))


@_operator("Resize")
def _resize(node: Node, inputs: Sequence[Value]) -> Value:
    x, _, scales, sizes = (*inputs, None, None)[:4]
    mode = node.get("mode", b"nearest").decode()
    where = node.get("coordinate_transformation_mode", b"half_pixel").decode()
    if sizes is not None:
        shape = _ints(sizes, "its sizes")[2:]
    elif isinstance(scales, torch.Tensor):
        raise Refused("its scales depend on the data")
    else:
        shape = [math.floor(size * scale) for size, scale in zip(x.shape[2:], list(scales)[2:], strict=True)]
    if x.dim() != 4 or mode not in ("linear", "cubic") or where not in ("half_pixel", "align_corners"):
        raise Refused(f"mode = {mode}, coordinate_transformation_mode = {where}")
    if (
        node.get("antialias", 0)
        or node.get("exclude_outside", 0)
        or (mode == "cubic" and node.get("cubic_coeff_a", -0.75) != -0.75)
    ):
        raise Refused("antialias, exclude_outside or cubic_coeff_a")
    name = "bilinear" if mode == "linear" else "bicubic"
    return F.interpolate(x, shape, mode=name, align_corners=where == "align_corners")


@_operator("Einsum")
def _einsum(node: Node, inputs: Sequence[Value]) -> Value:
    return torch.einsum(node.get("equation").decode(), *(_product(node, value) for value in inputs))
