"""The complete table: each imported module adds its operators."""

from __future__ import annotations

from preflight.adapters.pytorch import elementwise, layers, shapes
from preflight.adapters.pytorch.operator_table import OPERATORS, Node, Refused, Value, whole

__all__ = ["MODULES", "OPERATORS", "Node", "Refused", "Value", "whole"]

MODULES = (elementwise, layers, shapes)
"""The modules with operators."""
