"""Changes chosen nodes of an fp32 ONNX graph to fp16. Adds casts only where a node reads a value of the other type.

A value keeps the type of the node that produces it. If nodes of the other type read it, it is cast once. So a value
between two fp32 nodes is never rounded; that is the reason to keep nodes in fp32. Weights are stored in the type of the
nodes that read them. Inputs and outputs of the graph do not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from preflight.errors import EngineBuildError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "FP16_MAX",
    "FP16_NORMAL",
    "cast_nodes",
    "fits_fp16",
    "normalise",
    "opset_of",
    "runs_in_fp16",
    "sort_nodes",
    "value_types",
]

FP16_MAX = 65504.0
FP16_NORMAL = 2.0**-14  # below this, fp16 loses one bit with each halving of the value
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_STANDARD = frozenset({"", "ai.onnx"})
# Sums of squares and of powers may exceed the range of inputs and outputs. Counting needs exact integers.
_ALWAYS_FP32 = frozenset({
    "CumSum", "DequantizeLinear", "LpNormalization", "NonMaxSuppression", "QuantizeLinear", "Range", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
})  # fmt: skip
# The type of their output is an attribute and not the type of their input.
_TYPED_BY_ATTRIBUTE = frozenset({
    "Bernoulli", "BlackmanWindow", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow", "MelWeightMatrix",
    "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
# They read a value of any type, and use only its shape.
_SHAPES = frozenset({"Shape", "Size"})


def normalise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Normalise a model in place and return it.

    Constant nodes become initializers, initializers leave the inputs of the graph, and each node gets a unique name.
    """
    graph = model.graph
    kept, names = [], set()
    for node in graph.node:
        value = _constant(node)
        if value is not None:
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            continue
        node.name = node.name or f"{node.op_type}:{next((name for name in node.output if name), '')}"
        while node.name in names:
            node.name += "_"
        names.add(node.name)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    return model


def sort_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Sort the nodes of a model in place, so that each node follows the nodes it reads from. Returns the model.

    Nodes that were appended at the end move up to their first reader.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output if name}
    ordered: list[onnx.NodeProto] = []
    visited: set[str] = set()

    def visit(node: onnx.NodeProto) -> None:
        if node.name in visited:
            return
        visited.add(node.name)
        for name in (*node.input, *(name for inner in _subgraphs(node) for name in _names(inner))):
            if name in producers:
                visit(producers[name])
        ordered.append(node)

    for node in graph.node:
        visit(node)
    del graph.node[:]
    graph.node.extend(ordered)
    return model


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the ONNX element type of each value of the outermost graph, as far as it can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return {name: kind for name, kind in types.items() if kind}


def fits_fp16(tensor: onnx.TensorProto) -> bool:
    """Return whether a weight can be stored in fp16: no value overflows, and not all values vanish."""
    if tensor.data_type != _FLOAT:
        return True
    values = np.abs(numpy_helper.to_array(tensor))
    most = float(values[np.isfinite(values)].max(initial=0.0))
    return most <= FP16_MAX and (most == 0.0 or most >= FP16_NORMAL)


def runs_in_fp16(node: onnx.NodeProto, types: dict[str, int], opset: int) -> bool:
    """Return whether a node can run in fp16.

    ONNX must define the operator for fp16, the node must output floats, and the operator must have no known problem in
    fp16.

    Args:
        node: the node.
        types: the element type of each value, from `value_types`.
        opset: the opset of the model.
    """
    if node.domain not in _STANDARD or node.op_type in _ALWAYS_FP32 | _TYPED_BY_ATTRIBUTE or any(_subgraphs(node)):
        return False
    if any(name and name not in types for name in (*node.input, *node.output)):
        return False
    return bool(_fp16_positions(node, types, opset, "output"))


def cast_nodes(model: onnx.ModelProto, chosen: frozenset[str]) -> onnx.ModelProto:
    """Change nodes of a model to fp16, in place.

    Args:
        model: a model from `normalise`.
        chosen: names of nodes; `runs_in_fp16` is true for each.

    Returns:
        The model.

    Raises:
        EngineBuildError: the result is not valid ONNX. The message does not name the file; the caller does.
    """
    graph, opset = model.graph, opset_of(model)
    chosen -= _captured(graph)
    _rename_outputs(graph, chosen)
    edges = _Edges(value_types(model), {tensor.name: tensor for tensor in graph.initializer})
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        half = node.name in chosen
        half_inputs = _fp16_positions(node, edges.types, opset, "input") if half else frozenset()
        half_outputs = _fp16_positions(node, edges.types, opset, "output") if half else frozenset()
        for position, name in enumerate(node.input):
            if node.op_type not in _SHAPES:
                node.input[position] = edges.read(name, half=position in half_inputs, nodes=nodes)
        for position in half_outputs:
            edges.fp16_values.add(node.output[position])
        if half and node.op_type == "Cast":
            next(attribute for attribute in node.attribute if attribute.name == "to").i = _HALF
        for inner in _subgraphs(node):
            edges.unchanged_weights.update(_names(inner))
        nodes.append(node)
    edges.unchanged_weights.update(value.name for value in graph.output)
    del graph.node[:]
    graph.node.extend(nodes)
    edges.write(graph)
    # The recorded types of values are outdated. Programs that read the file infer them.
    del graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        reason = str(error).strip().rstrip(".")
        raise EngineBuildError(
            f"after the cast to fp16 the model is not valid ONNX: {reason}. Keep the nodes named there in fp32 with "
            "`precision_overrides`"
        ) from error
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that a model uses; 0 if it states none."""
    return next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 0)


class _Edges:
    """Gives each node its inputs in the type that it reads. Creates each cast and each fp16 weight once."""

    def __init__(self, types: dict[str, int], weights: dict[str, onnx.TensorProto]) -> None:
        self.types = types
        self.fp16_values: set[str] = set()  # values that nodes produce in fp16
        self.unchanged_weights: set[str] = set()  # weights that are read in their own type
        self._weights = weights
        self._converted: dict[str, onnx.TensorProto | None] = {}  # None: by a Cast node

    def read(self, name: str, *, half: bool, nodes: list[onnx.NodeProto]) -> str:
        """Return the name by which a node reads a value. Appends a new cast to `nodes` if the value needs one."""
        if name in self._weights and not half:
            self.unchanged_weights.add(name)
        if self.types.get(name) != _FLOAT or (name in self.fp16_values) == half:
            return name
        other = f"{name}.fp16" if half else f"{name}.fp32"
        if other not in self._converted:
            weight = self._weights.get(name)
            self._converted[other] = None if weight is None else _half_weight(weight, other)
            if weight is None:
                kind = _HALF if half else _FLOAT
                nodes.append(helper.make_node("Cast", [name], [other], name=f"cast:{other}", to=kind))
        return other

    def write(self, graph: onnx.GraphProto) -> None:
        """Add the fp16 weights to the graph, and remove the fp32 weights that are not read any more."""
        converted = [tensor for tensor in self._converted.values() if tensor is not None]
        unused = {tensor.name.removesuffix(".fp16") for tensor in converted} - self.unchanged_weights
        kept = [tensor for tensor in graph.initializer if tensor.name not in unused]
        del graph.initializer[:]
        graph.initializer.extend((*kept, *converted))


def _half_weight(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):  # masks contain -inf, which stays -inf; `fits_fp16` refused values that overflow
        return numpy_helper.from_array(values.astype(np.float16), name)


def _fp16_positions(
    node: onnx.NodeProto, types: dict[str, int], opset: int, side: Literal["input", "output"]
) -> frozenset[int]:
    """Return the positions of the fp32 inputs or outputs of a node that ONNX also allows in fp16."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return frozenset()
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    names, formal = (node.input, schema.inputs) if side == "input" else (node.output, schema.outputs)
    positions = set()
    for position, name in enumerate(names):
        kind = formal[min(position, len(formal) - 1)].type_str
        if name and types.get(name) == _FLOAT and "tensor(float16)" in allowed.get(kind, [kind]):
            positions.add(position)
    return frozenset(positions)


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Return the nodes whose values are read inside subgraphs. Subgraphs stay in fp32, so these nodes must stay too."""
    read = {name for node in graph.node for inner in _subgraphs(node) for name in _names(inner)}
    return {node.name for node in graph.node if read.intersection(node.output)}


def _rename_outputs(graph: onnx.GraphProto, chosen: frozenset[str]) -> None:
    """Rename graph outputs that chosen nodes produce, and add a copy with the old name. So the output stays fp32."""
    outputs = {value.name for value in graph.output}
    renamed = {
        name: f"{name}.inside" for node in graph.node if node.name in chosen for name in node.output if name in outputs
    }
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        for position, name in enumerate(node.output):
            node.output[position] = renamed.get(name, name)
    graph.node.extend(
        helper.make_node("Identity", [renamed[name]], [name], name=f"out:{name}") for name in sorted(renamed)
    )


def _constant(node: onnx.NodeProto) -> NDArray[np.generic] | None:
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if node.op_type != "Constant" or node.domain not in _STANDARD or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        return numpy_helper.to_array(attribute.t)
    if attribute.name not in kinds:
        return None
    return np.asarray(helper.get_attribute_value(attribute), kinds[attribute.name])


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of all values that a subgraph reads, and of its outputs."""
    for node in graph.node:
        yield from node.input
        for inner in _subgraphs(node):
            yield from _names(inner)
    yield from (value.name for value in graph.output)
