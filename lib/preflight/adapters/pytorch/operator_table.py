"""A table of ONNX operators as PyTorch functions. Other operators are refused.

The semantics are those of https://onnx.ai/onnx/operators for the opsets 13 to 20. A value is a tensor, a `float` (a
constant with one element), or a numpy array of objects. Such an array contains whole numbers that are known during
conversion, for example shapes. Some of them may be the exporter's symbols for a dynamic size.

Precision is as in automatic mixed precision. Products (convolutions, matrix products, normalisations) are computed in
the precision of the engine. Sums over an axis and powers soonest exceed the range of 16-bit floats, so they are
computed in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = [
    "OPERATORS",
    "Node",
    "Refused",
    "Value",
    "ints",
    "is_known",
    "only",
    "operator",
    "product",
    "tensor",
    "whole",
]

Value = Any
"""A tensor, a float, or a numpy array of whole numbers."""


class Refused(Exception):  # noqa: N818 - callers that know the file and the node turn it into EngineBuildError
    """An attribute or input that this table does not support."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a graph.

    attributes: Python values; tensors are numpy arrays. dtype: the type of the engine's products.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    dtype: Any

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - ONNX attributes are of many types
        """Return an attribute, or the default if the node does not have it."""
        return self.attributes.get(name, default)


Function = Callable[[Node, Sequence[Value]], Any]
OPERATORS: dict[str, Function] = {}
"""Operator -> function of a node and its input values.

An absent input is None. Several outputs are returned as a list.
"""


def operator(*kinds: str) -> Callable[[Function], Function]:
    """Return a decorator that adds a function to the table. kinds: the operators that it computes."""

    def enter(function: Function) -> Function:
        for kind in kinds:
            OPERATORS[kind] = function
        return function

    return enter


def whole(numbers: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401 - anything numpy takes
    """Return whole numbers as the table represents them: a numpy array of objects."""
    return np.array(numbers, dtype=object)


def is_known(value: Value) -> bool:
    """Return whether a value consists of numbers that are known during conversion."""
    return isinstance(value, np.ndarray)


def tensor(value: Value, like: Any) -> Any:  # noqa: ANN401
    """Return a value as a tensor on the device of `like`.

    Floats stay floats, so that they do not widen its type. Raises Refused.
    """
    if not is_known(value):
        return value
    if any(not isinstance(item, (int, bool, np.integer, np.bool_)) for item in value.flat):
        raise Refused("a size of the input is used as a number")
    return torch.tensor(value.tolist(), device=like.device)


def ints(value: Value, what: str) -> list[Any]:
    """Return the numbers of a shape or of axes. what: their name in the message.

    Raises Refused if they depend on the data.
    """
    if not is_known(value):
        raise Refused(f"{what} depend on the data")
    return [item if isinstance(item, torch.SymInt) else int(item) for item in np.atleast_1d(value)]


def product(node: Node, value: Value) -> Any:  # noqa: ANN401
    """Return a tensor in the type of products."""
    return value if value.dtype == node.dtype else value.to(node.dtype)


def only(node: Node, **allowed: Any) -> None:  # noqa: ANN401
    """Check that each of these attributes has the given value or is absent. Raises Refused."""
    for name, value in allowed.items():
        found = node.get(name, value)
        if found != value:
            raise Refused(f"{name} = {found.decode() if isinstance(found, bytes) else found}")
