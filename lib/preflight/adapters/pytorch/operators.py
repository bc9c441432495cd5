"""The whole table: each module enters its operators as it is imported."""

from __future__ import annotations

from preflight.adapters import _torch_elementwise, _torch_layers, _torch_shapes
from preflight.adapters._torch_table import OPERATORS, Node, Refused, Value, whole

__all__ = ["MODULES", "OPERATORS", "Node", "Refused", "Value", "whole"]

MODULES = (_torch_elementwise, _torch_layers, _torch_shapes)
"""Where the operators are."""
