"""ONNX operators that combine several numbers: products, windows over images, sums over axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from preflight.adapters.pytorch.operator_table import Node, Refused, Value, ints, only, operator, product


def _channels(like: Any, *values: Value) -> list[Value]:  # noqa: ANN401
    """Return one number for each channel as a tensor. With a single channel it may be a float."""
    return [like.new_full((1,), value) if isinstance(value, float) else value for value in values]


def _window(node: Node, dims: int) -> tuple[list[int], list[int], list[int]]:
    """Return strides, pads and dilations of a node.

    Pads are (begin, end) per dimension, last dimension first, as for `F.pad`.
    """
    only(node, auto_pad=b"NOTSET", ceil_mode=0)
    strides = list(node.get("strides", [1] * dims))
    pads = list(node.get("pads", [0] * 2 * dims))
    around = [pads[axis + side * dims] for axis in reversed(range(dims)) for side in (0, 1)]
    return strides, around, list(node.get("dilations", [1] * dims))


def _even(around: list[int]) -> list[int] | None:
    """Return the padding of each dimension, first to last; None if the two ends of a dimension differ."""
    begins, ends = around[::2], around[1::2]
    return begins[::-1] if begins == ends else None


@operator("Conv")
def _conv(node: Node, inputs: Sequence[Value]) -> Value:
    x, kernel = inputs[:2]
    (bias,) = _channels(kernel, *(*inputs, None)[2:3])
    dims = kernel.dim() - 2
    if dims not in (1, 2, 3):
        raise Refused(f"{dims} dimensions are not supported")
    strides, around, dilations = _window(node, dims)
    padding = _even(around)
    x = product(node, x)
    if padding is None:
        x, padding = F.pad(x, around), [0] * dims
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    return function(x, kernel, bias, strides, padding, dilations, node.get("group", 1))


@operator("MaxPool", "AveragePool")
def _pool(node: Node, inputs: Sequence[Value]) -> Value:
    (x,) = inputs
    size = list(node.get("kernel_shape"))
    if len(size) != 2 or len(node.outputs) != 1:
        raise Refused("only two dimensions and one output are supported")
    strides, around, dilations = _window(node, 2)
    padding = _even(around)
    if node.kind == "MaxPool":
        if padding is None or any(2 * pad > wide for pad, wide in zip(padding, size, strict=True)):
            x, padding = F.pad(x, around, value=-math.inf), [0, 0]
        return F.max_pool2d(x, size, strides, padding, dilations)
    if dilations != [1, 1] or padding is None:
        raise Refused("it has dilations or uneven pads")
    return F.avg_pool2d(x, size, strides, padding, count_include_pad=bool(node.get("count_include_pad", 0)))


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: Node, inputs: Sequence[Value]) -> Value:
    (x,) = inputs
    axes = tuple(range(2, x.dim()))
    return x.float().mean(axes, keepdim=True) if node.kind == "GlobalAveragePool" else x.amax(axes, keepdim=True)


@operator("MatMul")
def _matmul(node: Node, inputs: Sequence[Value]) -> Value:
    a, b = inputs
    return torch.matmul(product(node, a), product(node, b))


@operator("Gemm")
def _gemm(node: Node, inputs: Sequence[Value]) -> Value:
    a, b, c = (*inputs, None)[:3]
    a, b = product(node, a), product(node, b)
    a = a.transpose(0, 1) if node.get("transA", 0) else a
    b = b.transpose(0, 1) if node.get("transB", 0) else b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    found = torch.matmul(a, b)
    found = found if alpha == 1 else found * alpha
    return found if c is None else found + (c if beta == 1 else c * beta)


@operator("Softmax", "LogSoftmax")
def _softmax(node: Node, inputs: Sequence[Value]) -> Value:
    function = F.softmax if node.kind == "Softmax" else F.log_softmax
    return function(inputs[0], dim=node.get("axis", -1))


@operator("LayerNormalization")
def _layer_norm(node: Node, inputs: Sequence[Value]) -> Value:
    x, scale, bias = (*inputs, None)[:3]
    axis = node.get("axis", -1)
    if axis not in (-1, x.dim() - 1) or len(node.outputs) != 1:
        raise Refused(f"axis = {axis} with {len(node.outputs)} outputs")
    return F.layer_norm(product(node, x), (x.shape[-1],), scale, bias, node.get("epsilon", 1e-5))


@operator("BatchNormalization")
def _batch_norm(node: Node, inputs: Sequence[Value]) -> Value:
    only(node, training_mode=0)
    x = product(node, inputs[0])
    scale, bias, mean, variance = _channels(x, *inputs[1:])
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def _instance_norm(node: Node, inputs: Sequence[Value]) -> Value:
    x = product(node, inputs[0])
    scale, bias = _channels(x, *inputs[1:])
    return F.instance_norm(x, None, None, scale, bias, eps=node.get("epsilon", 1e-5))


# Sums over axes, in fp32.

_REDUCE: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceL2": lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim),
    "ReduceSumSquare": lambda x, axes, keepdim: torch.sum(x * x, axes, keepdim),
}


@operator(*_REDUCE)
def _reduce(node: Node, inputs: Sequence[Value]) -> Value:
    x, given = (*inputs, None)[:2]
    axes = node.get("axes") if given is None else ints(given, "its axes")
    if not axes:
        if node.get("noop_with_empty_axes", 0):
            return x
        axes = list(range(x.dim()))
    x = x.float() if x.is_floating_point() else x
    return _REDUCE[node.kind](x, list(axes), keepdim=bool(node.get("keepdims", 1)))


@operator("Pad")
def _pad(node: Node, inputs: Sequence[Value]) -> Value:
    x, given, fill, axes = (*inputs, None, None)[:4]
    mode = node.get("mode", b"constant").decode()
    if mode not in ("constant", "reflect") or axes is not None:
        raise Refused(f"mode = {mode}" if axes is None else "it has axes")
    pads = ints(given, "its pads")
    around = [pads[axis + side * x.dim()] for axis in reversed(range(x.dim())) for side in (0, 1)]
    while len(around) > 2 and around[-2:] == [0, 0]:
        around = around[:-2]
    return F.pad(x, around, mode, *((0.0 if fill is None else fill,) if mode == "constant" else ()))


@operator("Resize")
def _resize(node: Node, inputs: Sequence[Value]) -> Value:
    x, _, scales, sizes = (*inputs, None, None)[:4]
    mode = node.get("mode", b"nearest").decode()
    where = node.get("coordinate_transformation_mode", b"half_pixel").decode()
    if sizes is not None:
        shape = ints(sizes, "its sizes")[2:]
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
        raise Refused("it sets antialias, exclude_outside or cubic_coeff_a")
    name = "bilinear" if mode == "linear" else "bicubic"
    return F.interpolate(x, shape, mode=name, align_corners=where == "align_corners")


@operator("Einsum")
def _einsum(node: Node, inputs: Sequence[Value]) -> Value:
    return torch.einsum(node.get("equation").decode(), *(product(node, value) for value in inputs))
