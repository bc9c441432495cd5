"""ONNX operators that work element by element."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from preflight.adapters.pytorch.operator_table import Node, Refused, Value, is_known, operator, tensor, whole

# Operators with one input.

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


@operator(*_UNARY)
def _unary(node: Node, inputs: Sequence[Value]) -> Value:
    (x,) = inputs
    if isinstance(x, float):
        if node.kind not in _UNARY_FLOAT:
            raise Refused("its input is a constant")
        return _UNARY_FLOAT[node.kind](x)
    return -x if is_known(x) else _UNARY[node.kind](x)


@operator("Identity", "Dropout")
def _identity(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    return inputs[0]


@operator("Elu", "LeakyRelu", "Selu", "HardSigmoid", "Gelu")
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
    # PyTorch's function has ONNX's default values built in.
    alpha, gamma = node.get("alpha", 1.6732632), node.get("gamma", 1.0507010)
    if not (math.isclose(alpha, 1.6732632, rel_tol=1e-6) and math.isclose(gamma, 1.0507010, rel_tol=1e-6)):
        raise Refused(f"alpha = {alpha}, gamma = {gamma}")
    return F.selu(x)


@operator("PRelu")
def _prelu(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    x, slope = inputs
    return torch.where(x < 0, x * slope, x)


# Operators with two or more inputs.


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


@operator(*_BINARY)
def _binary(node: Node, inputs: Sequence[Value]) -> Value:
    a, b = inputs
    if is_known(a) and is_known(b):
        return whole(a // b if node.kind == "Div" else _BINARY[node.kind](a, b))
    like = b if is_known(a) or isinstance(a, float) else a
    return _BINARY[node.kind](tensor(a, like), tensor(b, like))


@operator("Pow")
def _pow(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    x, power = inputs
    if isinstance(x, float):
        raise Refused("its base is a constant")
    exponent = power if isinstance(power, float) or not is_known(power) else float(power.item())
    return torch.pow(x.float(), exponent)


@operator("Min", "Max")
def _extreme(node: Node, inputs: Sequence[Value]) -> Value:
    least = node.kind == "Min"
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    bounds = [value for value in inputs if isinstance(value, float)]
    if not tensors or len(tensors) + len(bounds) != len(inputs):
        raise Refused("its inputs are constants")
    found = functools.reduce(torch.minimum if least else torch.maximum, tensors)
    for bound in bounds:
        found = torch.clamp(found, max=bound) if least else torch.clamp(found, min=bound)
    return found


@operator("Clip")
def _clip(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    x, *bounds = inputs
    least, most = (*bounds, None, None)[:2]
    if any(bound is not None and not isinstance(bound, float) for bound in (least, most)):
        raise Refused("its bounds are not constants")
    return x if least is None and most is None else torch.clamp(x, least, most)


@operator("Where")
def _where(node: Node, inputs: Sequence[Value]) -> Value:  # noqa: ARG001
    condition, a, b = inputs
    if is_known(condition):
        if not (is_known(a) and is_known(b)):
            raise Refused("its condition is a constant")
        return whole(np.where(condition.astype(bool), a, b))
    return torch.where(condition, tensor(a, condition), tensor(b, condition))
