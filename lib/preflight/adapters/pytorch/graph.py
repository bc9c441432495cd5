"""Converts an ONNX graph to a PyTorch module, node by node, with the table in `operator_table`.

Operators outside the table are refused before anything is computed. The error names them and their nodes. The published
converter onnx2torch (1.5.15, 2024) does not support the operators that opsets 18 and 20 changed or added, and it needs
torchvision. `torch.onnx` converts only from PyTorch to ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # onnx's; ships no types
from onnx import numpy_helper

from preflight.adapters.pytorch.operators import OPERATORS, Node, Refused, Value, whole
from preflight.errors import EngineBuildError

__all__ = ["GraphModule", "Port", "read_graph"]

_SHOWN_NODES = 3
# Shapes, axes and indices are numbers known during conversion. Larger integer arrays are data.
_MOST_KNOWN = 1024


@dataclass(frozen=True, slots=True)
class Port:
    """An input of the graph. dtype: the array's numpy type. shape: as in the file, None for a dynamic dimension."""

    dtype: str
    shape: tuple[int | None, ...]


class GraphModule(torch.nn.Module):  # type: ignore[misc]  # PyTorch is optional: its types are not read
    """Runs the nodes in the order of the file.

    The inputs have the order of `ports`. The outputs are fp32 and have the order of `outputs`.
    """

    def __init__(self, nodes: list[Node], ports: dict[str, Port], outputs: list[str], dtype: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.nodes, self.ports, self.outputs, self.dtype = nodes, ports, outputs, dtype
        self.known: dict[str, Value] = {}
        self.names: dict[str, str] = {}

    def hold(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Store a constant of the graph: as a weight, as a number, or as numbers that are known during conversion."""
        factors = any(node.kind == "Resize" and name in node.inputs[2:3] for node in self.nodes)
        if factors or (array.dtype.kind in "iub" and array.size <= _MOST_KNOWN):
            self.known[name] = whole(array.tolist())
        elif array.dtype.kind == "f" and array.size == 1 and array.ndim <= 1:
            self.known[name] = float(array.item())
        else:
            tensor = torch.from_numpy(array.copy())
            label = f"weight_{len(self.names)}"
            self.register_buffer(label, tensor.to(self.dtype) if tensor.is_floating_point() else tensor)
            self.names[name] = label

    def forward(self, *inputs: Any) -> tuple[Any, ...]:  # noqa: ANN401 - tensors
        """Run one forward pass. Takes and returns tensors."""
        values: dict[str, Value] = dict(self.known)
        values |= {name: getattr(self, label) for name, label in self.names.items()}
        for name, tensor in zip(self.ports, inputs, strict=True):
            values[name] = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        for node in self.nodes:
            _run(node, values)
        return tuple(_result(values[name], name) for name in self.outputs)


def read_graph(path: Path, dtype: Any) -> GraphModule:  # noqa: ANN401 - a PyTorch type
    """Read an ONNX file, with its external data, as a module.

    Args:
        path: the ONNX file.
        dtype: the PyTorch type in which the module computes products.

    Raises:
        EngineBuildError: the file cannot be read, or contains operators that are not in the table. The message names
            all of them.
    """
    try:
        model = onnx.load(str(path))
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise EngineBuildError(f"{path} cannot be read as ONNX: {error}. Export it again.") from error
    graph = model.graph
    if not graph.node:
        raise EngineBuildError(f"{path} is not an ONNX model: it contains no graph. Export it again.")
    _refuse_unknown(path, graph)
    opset = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ports = {value.name: _port(path, value) for value in graph.input if value.name not in constants}
    nodes = [_node(node, opset, dtype) for node in graph.node if node.op_type != "Constant"]
    module = GraphModule(nodes, ports, [value.name for value in graph.output], dtype)
    for name, tensor in constants.items():
        module.hold(name, numpy_helper.to_array(tensor))
    for node in graph.node:
        if node.op_type == "Constant":
            module.hold(node.output[0], _constant(path, node))
    module.eval()
    return module


def _run(node: Node, values: dict[str, Value]) -> None:
    try:
        found = OPERATORS[node.kind](node, [values[name] if name else None for name in node.inputs])
    except Refused as error:
        raise EngineBuildError(f"operator {node.kind} (node {node.name}): {error}") from error
    found = found if isinstance(found, list) else [found]
    values.update(zip(node.outputs, found, strict=False))  # an unused output may be absent


def _result(value: Value, name: str) -> Any:  # noqa: ANN401 - a tensor
    if not isinstance(value, torch.Tensor):
        raise EngineBuildError(f"output {name} is a constant")
    return value if value.dtype == torch.float32 else value.to(torch.float32)


def _refuse_unknown(path: Path, graph: onnx.GraphProto) -> None:
    missing: dict[str, list[str]] = {}
    for node in graph.node:
        known = node.domain in {"", "ai.onnx"} and (node.op_type in OPERATORS or node.op_type == "Constant")
        if not known:
            kind = node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}.{node.op_type}"
            missing.setdefault(kind, []).append(node.name or node.output[0])
    if missing:
        raise EngineBuildError(
            f"{path} cannot be converted to PyTorch: no conversion is known for {_listed(missing)}. Choose another "
            "runtime for this model (openvino, onnxruntime, tensorrt)."
        )


def _listed(missing: Mapping[str, list[str]]) -> str:
    def nodes(names: list[str]) -> str:
        more = f" and {len(names) - _SHOWN_NODES} more" if len(names) > _SHOWN_NODES else ""
        return ", ".join(names[:_SHOWN_NODES]) + more

    return "; ".join(f"{kind} (node {nodes(names)})" for kind, names in sorted(missing.items()))


def _node(node: onnx.NodeProto, opset: int, dtype: Any) -> Node:  # noqa: ANN401 - a PyTorch type
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    arrays = {
        name: numpy_helper.to_array(value) for name, value in attributes.items() if isinstance(value, onnx.TensorProto)
    }
    label = node.name or node.output[0]
    return Node(node.op_type, label, tuple(node.input), tuple(node.output), attributes | arrays, opset, dtype)


def _constant(path: Path, node: onnx.NodeProto) -> np.ndarray[Any, Any]:
    for entry in node.attribute:
        value = onnx.helper.get_attribute_value(entry)
        if entry.name == "value":
            return numpy_helper.to_array(value)
        if entry.name in {"value_float", "value_floats"}:
            return np.asarray(value, np.float32)
        if entry.name in {"value_int", "value_ints"}:
            return np.asarray(value, np.int64)
    raise EngineBuildError(
        f"{path}: operator Constant (node {node.name or node.output[0]}) has no number or array. Export it again."
    )


def _port(path: Path, value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if dtype.kind not in "fiub":
        raise EngineBuildError(
            f"{path}: input {value.name} has the type {dtype}, which PyTorch engines do not support."
        )
    return Port(dtype.name, tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim))
