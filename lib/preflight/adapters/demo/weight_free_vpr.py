"""A place-recognition backbone without learned weights, written as an ONNX graph.

The descriptor is a polar energy tensor. The graph computes it in these steps:

1. It normalises the luminance at 112 px by local contrast.
2. It computes the energy of 8 Gabor orientations at 3 scales, and divides it by the mean energy of all of them.
3. It pools the energies into 5 rings of 16 sectors, and makes the orientations relative to the sector.
4. It appends two opponent colours, pooled in the same way.

So a rotation of the camera is a cyclic shift of the descriptor. The backbone exists to run and test the whole build
without a model file. It is not for flight.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from preflight.adapters.demo import polar_filters as filters
from preflight.evaluation.backbone_card import WEIGHT_FREE_VPR

__all__ = ["CARD", "INPUT_NAME", "INPUT_SIZE", "OUTPUT_NAME", "build_model", "write"]

INPUT_NAME = "image"
OUTPUT_NAME = "descriptor"
INPUT_SIZE = 224

_OPSET = 17
_IR_VERSION = 8  # of the release that introduced opset 17, so every runtime that reads the opset reads it
_SCALES = 3
_MAPS = _SCALES * filters.ORIENTATIONS
_CELLS = filters.RINGS * filters.SECTORS
_ENERGY_DIM = _MAPS * _CELLS
_COLOUR_DIM = 2 * _CELLS
_COLOUR_WEIGHT = 0.5
_NORM_FLOOR = 1e-6  # above zero in fp16 too; 1e-9, as in the PyTorch prototype, would be zero there
_BLANK = 1e-6  # added to every number before the last norm, so that an image without texture gets a unit vector too

CARD = WEIGHT_FREE_VPR


def build_model() -> bytes:
    """Build the ONNX model. Each call returns the same bytes.

    The model uses opset 17 and only operators of the default domain. Its input `image` is float32 (batch, 3, 224, 224),
    RGB in 0..255. Its output `descriptor` is float32 (batch, 2080), L2-normalised.

    Returns:
        The serialised model.
    """
    graph = _Graph()
    grey, colour = _grey_and_colour(graph)
    energy = _divide_by_mean_energy(graph, _energies(graph, _local_contrast(graph, grey)))
    pooled = _pool(graph, energy, colour)
    _descriptor(graph, *pooled)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            CARD.name,
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["batch", 3, INPUT_SIZE, INPUT_SIZE])],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", CARD.descriptor_dim])],
            graph.initializers,
            doc_string=CARD.description,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="preflight",
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def write(path: Path) -> None:
    """Write the model to a file. The write is not atomic, so callers pass a temporary path."""
    path.write_bytes(build_model())


@dataclass(slots=True)
class _Graph:
    """Collects nodes and constants in order, and names each value by a running number."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: int | list[int]) -> str:
        """Add a node with one output, and return the name of that output."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(_node(kind, list(inputs), name, attributes))
        return name

    def split(self, value: str, sizes: Sequence[int]) -> list[str]:
        """Split `value` along its channels into parts of these sizes. Returns their names."""
        stem = f"split_{len(self.nodes)}"
        names = [f"{stem}_{i}" for i in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [value, self.ints(sizes)], names, name=stem, axis=1))
        return names

    def floats(self, values: Sequence[float], shape: Sequence[int] = ()) -> str:
        """Add a float32 constant and return its name. An empty shape means a scalar."""
        name = f"constant_{len(self.initializers)}"
        raw = struct.pack(f"<{len(values)}f", *values)
        self.initializers.append(helper.make_tensor(name, TensorProto.FLOAT, shape, raw, raw=True))
        return name

    def scalar(self, value: float) -> str:
        """Add a float32 scalar and return its name."""
        return self.floats([value])

    def ints(self, values: Sequence[int]) -> str:
        """Add a one-dimensional int64 constant and return its name."""
        name = f"constant_{len(self.initializers)}"
        raw = struct.pack(f"<{len(values)}q", *values)
        self.initializers.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], raw, raw=True))
        return name

    def reshape(self, value: str, *tail: int) -> str:
        """Give `value` the shape (batch, *tail)."""
        return self.op("Reshape", value, self.ints([0, *tail]))

    def pool(self, value: str, side: int) -> str:
        """Average over non-overlapping squares of `side` pixels."""
        return self.op("AveragePool", value, kernel_shape=[side, side], strides=[side, side])

    def local_mean(self, value: str) -> str:
        """Average over the 17 x 17 pixels around each pixel. Pixels outside the image do not count."""
        return self.op("AveragePool", value, kernel_shape=[17, 17], pads=[8] * 4, strides=[1, 1], count_include_pad=0)

    def normalise(self, value: str) -> str:
        """Divide each row by its length."""
        length = self.op("ReduceL2", value, axes=[1], keepdims=1)
        return self.op("Div", value, self.op("Add", length, self.scalar(_NORM_FLOOR)))

    def signed_root(self, value: str) -> str:
        """Compute the square root of the magnitude, with the sign of the value. Zero stays zero."""
        magnitude = self.op("Add", self.op("Abs", value), self.scalar(1e-9))
        return self.op("Mul", self.op("Sign", value), self.op("Sqrt", magnitude))


def _node(kind: str, inputs: list[str], output: str, attributes: dict[str, int | list[int]]) -> onnx.NodeProto:
    node = helper.make_node(kind, inputs, [output], name=output)
    node.attribute.extend(helper.make_attribute(name, attributes[name]) for name in sorted(attributes))
    return node


def _grey_and_colour(graph: _Graph) -> tuple[str, str]:
    """Compute luminance (batch, 1, 112, 112) in 0..1 and opponent colours (batch, 2, 28, 28)."""
    image = graph.op("Div", graph.pool(INPUT_NAME, 2), graph.scalar(255.0))
    grey = graph.op("Conv", image, graph.floats([0.299, 0.587, 0.114], [1, 3, 1, 1]))
    opponents = graph.op("Conv", image, graph.floats([1.0, -1.0, 0.0, 0.5, 0.5, -1.0], [2, 3, 1, 1]))
    colour = graph.pool(graph.op("Div", opponents, graph.op("Add", grey, graph.scalar(0.15))), 4)
    # Subtract half of the mean colour. This reduces the tint of the light, but keeps the difference of wood and field.
    cast = graph.op("Mul", graph.op("ReduceMean", colour, axes=[2, 3], keepdims=1), graph.scalar(0.5))
    return grey, graph.op("Sub", colour, cast)


def _local_contrast(graph: _Graph, grey: str) -> str:
    centred = graph.op("Sub", grey, graph.local_mean(grey))
    variance = graph.local_mean(graph.op("Mul", centred, centred))
    return graph.op("Div", centred, graph.op("Sqrt", graph.op("Add", variance, graph.scalar(1e-3))))


def _energies(graph: _Graph, contrast: str) -> str:
    """Compute oriented energy at three scales: (batch, 24, 28, 28), ordered by scale, then by orientation."""
    bank = graph.floats(filters.gabor_bank(), [2 * filters.ORIENTATIONS, 1, 9, 9])
    blur = graph.floats(filters.gaussian_kernel(), [1, 1, 7, 7])
    scales = []
    for scale in range(_SCALES):
        response = graph.op("Conv", contrast, bank, kernel_shape=[9, 9], pads=[4] * 4)
        even, odd = graph.split(graph.op("Mul", response, response), [filters.ORIENTATIONS] * 2)
        power = graph.op("Add", graph.op("Add", even, odd), graph.scalar(1e-4))
        energy = graph.op("Sub", graph.op("Sqrt", power), graph.scalar(1e-2))
        shrink = 4 >> scale
        scales.append(graph.pool(energy, shrink) if shrink > 1 else energy)
        if scale < _SCALES - 1:
            contrast = graph.pool(graph.op("Conv", contrast, blur, kernel_shape=[7, 7], pads=[3] * 4), 2)
    return graph.op("Concat", *scales, axis=1)


def _divide_by_mean_energy(graph: _Graph, energy: str) -> str:
    mean = graph.op("ReduceMean", energy, axes=[1], keepdims=1)
    return graph.op("Div", energy, graph.op("Add", mean, graph.scalar(0.05)))


def _pool(graph: _Graph, energy: str, colour: str) -> tuple[str, str]:
    """Pool every map into rings and sectors with one matrix product. Returns (batch, 24, 80) and (batch, 2, 80)."""
    area = filters.GRID * filters.GRID
    maps = graph.reshape(graph.op("Concat", energy, colour, axis=1), _MAPS + 2, area)
    pooled = graph.op("MatMul", maps, graph.floats(filters.polar_masks(), [area, _CELLS]))
    energies, colours = graph.split(pooled, [_MAPS, 2])
    return energies, colours


def _descriptor(graph: _Graph, energies: str, colours: str) -> None:
    root = graph.signed_root(graph.op("Relu", energies))
    tensor = graph.reshape(root, _SCALES, filters.ORIENTATIONS, filters.RINGS, filters.SECTORS)
    by_ring = graph.op("Transpose", tensor, perm=[0, 1, 3, 2, 4])
    flat = graph.reshape(by_ring, _SCALES * filters.RINGS, filters.ORIENTATIONS * filters.SECTORS)
    steered = graph.op("Gather", flat, graph.ints(filters.steering_order()), axis=2)
    rows = graph.reshape(steered, _MAPS * filters.RINGS, filters.SECTORS)
    # Keep a fifth of the mean of each row. The mean tells how much energy a ring has; the rest tells where it is.
    mean = graph.op("Mul", graph.op("ReduceMean", rows, axes=[2], keepdims=1), graph.scalar(0.8))
    shape = graph.normalise(graph.reshape(graph.op("Sub", rows, mean), _ENERGY_DIM))
    hue = graph.normalise(graph.signed_root(graph.reshape(colours, _COLOUR_DIM)))
    weighted = graph.op("Mul", hue, graph.scalar(_COLOUR_WEIGHT))
    both = graph.op("Add", graph.op("Concat", shape, weighted, axis=1), graph.scalar(_BLANK))
    length = graph.op("ReduceL2", both, axes=[1], keepdims=1)
    graph.op("Div", both, length, output=OUTPUT_NAME)
