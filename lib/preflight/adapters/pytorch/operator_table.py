"""ONNX operators as PyTorch functions: a table, and nothing outside it.

Semantics: https://onnx.ai/onnx/operators, for the opsets 13 to 20. A value is a tensor, a `float` (a constant of one
element), or a numpy array of objects: whole numbers known while the graph is converted, such as shapes, some of them
the exporter's symbols for a dynamic size.

Numbers are computed as automatic mixed precision does it: products (convolutions, matrix products, normalisations) in the
precision of the engine; sums over an axis and powers, which leave the range of 16-bit floats first, in fp32.
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


def operator(*kinds: str) -> Callable[[Function], Function]:
    """Enter a function into the table."""

    def enter(function: Function) -> Function:
        for kind in kinds:
            OPERATORS[kind] = function
        return function

    return enter


def whole(numbers: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401 - anything numpy takes
    """Whole numbers as the table carries them."""
    return np.array(numbers, dtype=object)


def is_known(value: Value) -> bool:
    """Whether a value is numbers known while converting."""
    return isinstance(value, np.ndarray)


def tensor(value: Value, like: Any) -> Any:  # noqa: ANN401
    """A value beside a tensor, on its device; floats stay as they are, so that they do not widen its type."""
    if not is_known(value):
        return value
    if any(not isinstance(item, (int, bool, np.integer, np.bool_)) for item in value.flat):
        raise Refused("a size of the input is used as a number")
    return torch.tensor(value.tolist(), device=like.device)


def ints(value: Value, what: str) -> list[Any]:
    """The numbers of a shape or of axes."""
    if not is_known(value):
        raise Refused(f"{what} depend on the data")
    return [item if isinstance(item, torch.SymInt) else int(item) for item in np.atleast_1d(value)]


def product(node: Node, value: Value) -> Any:  # noqa: ANN401
    """A tensor as products are computed."""
    return value if value.dtype == node.dtype else value.to(node.dtype)


def only(node: Node, **allowed: Any) -> None:  # noqa: ANN401
    """Refuse attributes with other values than the ones given; absent ones have them."""
    for name, value in allowed.items():
        found = node.get(name, value)
        if found != value:
            raise Refused(f"{name} = {found.decode() if isinstance(found, bytes) else found}")
