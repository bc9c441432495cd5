"""An fp32 ONNX graph with chosen nodes in fp16: casts where the two meet, and nowhere else.

A value keeps the type of the node that makes it, and is cast once where a node of the other type reads it. So a value
that passes between two fp32 nodes is never rounded on its way, which is why they were kept. Weights are written in the
type of who reads them. Inputs and outputs of the graph stay as they were.
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

__all__ = ["FP16_MAX", "FP16_NORMAL", "cast_nodes", "fits", "lifted", "opset_of", "ordered", "runs_in_fp16", "typed"]

FP16_MAX = 65504.0
FP16_NORMAL = 2.0**-14  # below it fp16 loses a digit with every halving
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_STANDARD = frozenset({"", "ai.onnx"})
# Sums of squares and of powers grow beyond what goes in and comes out; counting needs every whole number.
_ALWAYS_FP32 = frozenset({
    "CumSum", "DequantizeLinear", "LpNormalization", "NonMaxSuppression", "QuantizeLinear", "Range", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
})  # fmt: skip
# Their output's type is an attribute, not their input's.
_TYPED_BY_ATTRIBUTE = frozenset({
    "Bernoulli", "BlackmanWindow", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow", "MelWeightMatrix",
    "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
# They read a value of any type, and look at nothing but its shape.
_SHAPES = frozenset({"Shape", "Size"})


def lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its Constant nodes as initializers, no initializer among its inputs, and a name of its own for each node."""
    graph = model.graph
    kept, taken = [], set()
    for node in graph.node:
        value = _constant(node)
        if value is not None:
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            continue
        node.name = node.name or f"{node.op_type}:{next((name for name in node.output if name), '')}"
        while node.name in taken:
            node.name += "_"
        taken.add(node.name)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    return model


def ordered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each node after those it reads from; nodes put at the end move up to where they are read first."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    placed: list[onnx.NodeProto] = []
    done: set[str] = set()

    def place(node: onnx.NodeProto) -> None:
        if node.name in done:
            return
        done.add(node.name)
        for name in (*node.input, *(name for inner in _inner(node) for name in _names(inner))):
            if name in makers:
                place(makers[name])
        placed.append(node)

    for node in graph.node:
        place(node)
    del graph.node[:]
    graph.node.extend(placed)
    return model


def typed(model: onnx.ModelProto) -> dict[str, int]:
    """Value of the outermost graph -> ONNX element type, where it can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    found.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return {name: kind for name, kind in found.items() if kind}


def fits(tensor: onnx.TensorProto) -> bool:
    """Whether a weight can be written in fp16: nothing in it overflows, and it does not vanish as a whole."""
    if tensor.data_type != _FLOAT:
        return True
    values = np.abs(numpy_helper.to_array(tensor))
    most = float(values[np.isfinite(values)].max(initial=0.0))
    return most <= FP16_MAX and (most == 0.0 or most >= FP16_NORMAL)


def runs_in_fp16(node: onnx.NodeProto, types: dict[str, int], opset: int) -> bool:
    """Whether ONNX defines the node for fp16, it puts out floats, and nothing is known to go wrong there."""
    if node.domain not in _STANDARD or node.op_type in _ALWAYS_FP32 | _TYPED_BY_ATTRIBUTE or any(_inner(node)):
        return False
    if any(name and name not in types for name in (*node.input, *node.output)):
        return False
    return bool(_halves(node, types, opset, "output"))


def cast_nodes(model: onnx.ModelProto, chosen: frozenset[str]) -> onnx.ModelProto:
    """The `lifted` model with the nodes of these names in fp16, each of which `runs_in_fp16`.

    Raises:
        EngineBuildError: what comes out is not valid ONNX.
    """
    graph, opset = model.graph, opset_of(model)
    chosen -= _captured(graph)
    _set_outputs_apart(graph, chosen)
    edges = _Edges(typed(model), {tensor.name: tensor for tensor in graph.initializer})
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        half = node.name in chosen
        asked = _halves(node, edges.types, opset, "input") if half else frozenset()
        made = _halves(node, edges.types, opset, "output") if half else frozenset()
        for at, name in enumerate(node.input):
            if node.op_type not in _SHAPES:
                node.input[at] = edges.read(name, half=at in asked, nodes=nodes)
        for at in made:
            edges.halves.add(node.output[at])
        if half and node.op_type == "Cast":
            next(attribute for attribute in node.attribute if attribute.name == "to").i = _HALF
        for inner in _inner(node):
            edges.whole.update(_names(inner))
        nodes.append(node)
    edges.whole.update(value.name for value in graph.output)
    del graph.node[:]
    graph.node.extend(nodes)
    edges.write(graph)
    # What was noted of the types of values is no longer so; who reads the file infers them.
    del graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        said = str(error).strip().rstrip(".")
        raise EngineBuildError(
            f"cast to fp16 it is no valid ONNX: {said}. Keep the nodes named there in fp32 by `precision_overrides`"
        ) from error
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard's operator set."""
    return next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 0)


class _Edges:
    """What nodes read, in the type they read it: casts and weights, each made once."""

    def __init__(self, types: dict[str, int], weights: dict[str, onnx.TensorProto]) -> None:
        self.types = types
        self.halves: set[str] = set()  # values made in fp16
        self.whole: set[str] = set()  # weights somebody reads as they are
        self._weights = weights
        self._made: dict[str, onnx.TensorProto | None] = {}

    def read(self, name: str, *, half: bool, nodes: list[onnx.NodeProto]) -> str:
        """The name to read a value by; a cast that it takes goes to the end of `nodes`."""
        if name in self._weights and not half:
            self.whole.add(name)
        if self.types.get(name) != _FLOAT or (name in self.halves) == half:
            return name
        other = f"{name}.fp16" if half else f"{name}.fp32"
        if other not in self._made:
            weight = self._weights.get(name)
            self._made[other] = None if weight is None else _half_weight(weight, other)
            if weight is None:
                kind = _HALF if half else _FLOAT
                nodes.append(helper.make_node("Cast", [name], [other], name=f"cast:{other}", to=kind))
        return other

    def write(self, graph: onnx.GraphProto) -> None:
        """Put the weights into the graph as they are read."""
        halved = [tensor for tensor in self._made.values() if tensor is not None]
        gone = {tensor.name.removesuffix(".fp16") for tensor in halved} - self.whole
        kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
        del graph.initializer[:]
        graph.initializer.extend((*kept, *halved))


def _half_weight(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):  # minus infinity, as masks have it, stays so; `fits` refused what overflows
        return numpy_helper.from_array(values.astype(np.float16), name)


def _halves(
    node: onnx.NodeProto, types: dict[str, int], opset: int, side: Literal["input", "output"]
) -> frozenset[int]:
    """The places of a node's fp32 values that ONNX defines in fp16 too, when the node runs in it."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return frozenset()
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    names, formal = (node.input, schema.inputs) if side == "input" else (node.output, schema.outputs)
    found = set()
    for at, name in enumerate(names):
        kind = formal[min(at, len(formal) - 1)].type_str
        if name and types.get(name) == _FLOAT and "tensor(float16)" in allowed.get(kind, [kind]):
            found.add(at)
    return frozenset(found)


def _captured(graph: onnx.GraphProto) -> set[str]:
    """The nodes whose values graphs inside others read by name: those read them in fp32."""
    read = {name for node in graph.node for inner in _inner(node) for name in _names(inner)}
    return {node.name for node in graph.node if read.intersection(node.output)}


def _set_outputs_apart(graph: onnx.GraphProto, chosen: frozenset[str]) -> None:
    """Give what chosen nodes put out of the graph a name inside it, so that the outside keeps its type."""
    outputs = {value.name for value in graph.output}
    apart = {
        name: f"{name}.inside" for node in graph.node if node.name in chosen for name in node.output if name in outputs
    }
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = apart.get(name, name)
        for at, name in enumerate(node.output):
            node.output[at] = apart.get(name, name)
    graph.node.extend(helper.make_node("Identity", [apart[name]], [name], name=f"out:{name}") for name in sorted(apart))


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


def _inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for inner in _inner(node):
            yield from _names(inner)
    yield from (value.name for value in graph.output)
