"""Real architectures for the three kinds of models in a corpus: descriptor, keypoints and matching.

Each function returns an `onnx.ModelProto` with seeded weights inside. The graphs are like those of exporters: one
operator if the given opset has it, otherwise its parts. Dynamic shapes are read from the graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = range(13, 21)
FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64
Dim = int | str


class Graph:
    """Collects nodes and weights. A value has the name of its node, such as `/blocks.3/attn/MatMul_1`."""

    def __init__(self, name: str, opset: int, seed: int) -> None:
        self.name, self.opset = name, opset
        self.scope = ""
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._counts: dict[str, int] = {}

    def weight(self, name: str, *shape: int, scale: float | None = None, mean: float = 0.0) -> str:
        """Add normally distributed weights. By default a (..., in, out) or conv weight keeps the scale of its input."""
        fan_in = shape[-2] if len(shape) == 2 else math.prod(shape[1:])
        deviation = scale if scale is not None else 1 / math.sqrt(max(fan_in, 1))
        return self.constant((mean + self._random.normal(size=shape) * deviation).astype(np.float32), name)

    def constant(self, value: object, name: str | None = None) -> str:
        """Add a constant tensor: float32, or int64 for integers."""
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        label = self._unique(f"{self.scope}{name or 'Constant'}")
        self._weights[label] = numpy_helper.from_array(array, label)
        return label

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """Add a node with one output; return its name."""
        return self.ops(kind, 1, *inputs, domain=domain, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, domain: str = "", **attributes: object) -> list[str]:
        """Add a node with several outputs; return their names."""
        label = self._unique(f"{self.scope}{kind}")
        outputs = [f"{label}_output_{number}" for number in range(count)]
        self._nodes.append(helper.make_node(kind, inputs, outputs, name=label, domain=domain, **attributes))
        return outputs

    def model(
        self, inputs: dict[str, Sequence[Dim]], outputs: dict[str, tuple[str, int, Sequence[Dim]]]
    ) -> onnx.ModelProto:
        """Return the model. inputs: name -> shape, float32. outputs: name -> (value, element type, shape)."""
        for name, (value, _, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name], name=f"/{name}"))
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [helper.make_tensor_value_info(name, FLOAT, list(shape)) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, kind, list(shape)) for name, (_, kind, shape) in outputs.items()],
            list(self._weights.values()),
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8 if self.opset < 19 else 9)

    # Parts that differ between the opsets.

    def reduce(self, kind: str, x: str, axis: int) -> str:
        """Add ReduceMean or ReduceL2. Their axes are an attribute below opset 18, and an input from 18 on."""
        if self.opset < 18:
            return self.op(kind, x, axes=[axis], keepdims=1)
        return self.op(kind, x, self.constant([axis]), keepdims=1)

    def layer_norm(self, x: str, width: int, name: str) -> str:
        """Add a layer normalisation: one operator from opset 17 on, its parts below."""
        gamma, beta = (
            self.weight(f"{name}.weight", width, scale=0.1, mean=1.0),
            self.weight(f"{name}.bias", width, scale=0.1),
        )
        if self.opset >= 17:
            return self.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-6)
        centred = self.op("Sub", x, self.reduce("ReduceMean", x, -1))
        variance = self.reduce("ReduceMean", self.op("Pow", centred, self.constant(2.0)), -1)
        deviation = self.op("Sqrt", self.op("Add", variance, self.constant(1e-6)))
        return self.op("Add", self.op("Mul", self.op("Div", centred, deviation), gamma), beta)

    def gelu(self, x: str) -> str:
        """Add a GELU: one operator from opset 20 on, its parts below."""
        if self.opset >= 20:
            return self.op("Gelu", x)
        error = self.op("Erf", self.op("Div", x, self.constant(math.sqrt(2))))
        half = self.op("Mul", x, self.op("Add", error, self.constant(1.0)))
        return self.op("Mul", half, self.constant(0.5))

    # Common parts.

    def linear(self, x: str, wide: int, out: int, name: str) -> str:
        product = self.op("MatMul", x, self.weight(f"{name}.weight", wide, out))
        return self.op("Add", self.weight(f"{name}.bias", out, scale=0.02), product)

    def dim(self, x: str, axis: int) -> str:
        """Return the size of one dimension, (1,) int64."""
        return self.op("Gather", self.op("Shape", x), self.constant([axis]), axis=0)

    def shape(self, *dims: str | int) -> str:
        return self.op("Concat", *(self.constant([dim]) if isinstance(dim, int) else dim for dim in dims), axis=0)

    def normalized(self, x: str, axis: int) -> str:
        norm = self.op("Clip", self.reduce("ReduceL2", x, axis), self.constant(1e-12))
        return self.op("Div", x, norm)

    def _unique(self, label: str) -> str:
        count = self._counts[label] = self._counts.get(label, -1) + 1
        return f"{label}_{count}" if count else label


def vit(
    opset: int = 17,
    *,
    depth: int = 12,
    width: int = 384,
    heads: int = 6,
    side: int = 224,
    patch: int = 14,
    batch: Dim = "batch",
    seed: int = 1,
) -> onnx.ModelProto:
    """Return a DINOv2-style ViT (by default S/14) with class token, position embedding and LayerScale.

    image (batch, 3, side, side) -> descriptor (batch, width), L2-normalised.
    """
    graph = Graph("vit", opset, seed)
    tokens = (side // patch) ** 2
    graph.scope = "/patch_embed/"
    kernel = graph.weight("proj.weight", width, 3, patch, patch)
    bias = graph.weight("proj.bias", width, scale=0.02)
    x = graph.op("Conv", "image", kernel, bias, strides=[patch, patch], kernel_shape=[patch, patch])
    rows = graph.op("Reshape", x, graph.shape(graph.dim(x, 0), width, -1))
    x = graph.op("Transpose", rows, perm=[0, 2, 1])
    graph.scope = "/"
    token = graph.weight("cls_token", 1, 1, width, scale=0.02)
    token = graph.op("Expand", token, graph.shape(graph.dim(x, 0), 1, width))
    x = graph.op("Concat", token, x, axis=1)
    x = graph.op("Add", x, graph.weight("pos_embed", 1, tokens + 1, width, scale=0.02))
    for number in range(depth):
        graph.scope = f"/blocks.{number}/"
        x = _vit_block(graph, x, width, heads)
    graph.scope = "/"
    x = graph.layer_norm(x, width, "norm")
    x = graph.op("Gather", x, graph.constant(0), axis=1)
    descriptor = graph.normalized(x, 1)
    return graph.model({"image": [batch, 3, side, side]}, {"descriptor": (descriptor, FLOAT, [batch, width])})


def tiny_vit(opset: int = 17, *, batch: Dim = "batch", seed: int = 1) -> onnx.ModelProto:
    """Return the same network with two blocks, width 48, on 56 x 56 pixels."""
    return vit(opset, depth=2, width=48, heads=3, side=56, batch=batch, seed=seed)


def _vit_block(graph: Graph, x: str, width: int, heads: int) -> str:
    attended = _attention(graph, graph.layer_norm(x, width, "norm1"), width, heads)
    x = graph.op("Add", x, graph.op("Mul", attended, graph.weight("ls1.gamma", width, scale=0.1, mean=0.3)))
    hidden = graph.gelu(graph.linear(graph.layer_norm(x, width, "norm2"), width, 4 * width, "mlp.fc1"))
    out = graph.linear(hidden, 4 * width, width, "mlp.fc2")
    return graph.op("Add", x, graph.op("Mul", out, graph.weight("ls2.gamma", width, scale=0.1, mean=0.3)))


def _attention(graph: Graph, x: str, width: int, heads: int) -> str:
    qkv = graph.linear(x, width, 3 * width, "attn.qkv")
    split = graph.shape(graph.dim(x, 0), graph.dim(x, 1), 3, heads, width // heads)
    qkv = graph.op("Transpose", graph.op("Reshape", qkv, split), perm=[2, 0, 3, 1, 4])
    q, k, v = (graph.op("Gather", qkv, graph.constant(number), axis=0) for number in range(3))
    q = graph.op("Mul", q, graph.constant((width // heads) ** -0.5))
    weights = graph.op("Softmax", graph.op("MatMul", q, graph.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    mixed = graph.op("Transpose", graph.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    joined = graph.op("Reshape", mixed, graph.shape(graph.dim(x, 0), graph.dim(x, 1), width))
    return graph.linear(joined, width, width, "attn.proj")


def aliked(
    opset: int = 17, *, side: int = 64, top_k: int = 32, sampled: bool = False, batch: Dim = "batch", seed: int = 2
) -> onnx.ModelProto:
    """Return an ALIKED-style dense CNN: four scales, one score map, its best points and their descriptors.

    image (batch, 3, side, side) -> score_map (batch, 1, side, side), descriptor_map (batch, 32, side, side),
    keypoints (batch, top_k, 2) as x, y from -1 to 1, scores (batch, top_k), descriptors (batch, top_k, 32).

    sampled: read the descriptors at points moved by predicted offsets, by GridSample (from opset 16), as the deformable
    head does; else at the pixels themselves.
    """
    graph = Graph("aliked", opset, seed)
    features = _pyramid(graph, side)
    graph.scope = "/score_head/"
    hidden = graph.op("Selu", _conv(graph, features, 32, 8, 1, "0"))
    score = graph.op("Sigmoid", _conv(graph, hidden, 8, 1, 3, "1"))
    graph.scope = "/"
    described = graph.normalized(features, 1)
    # A point is kept if its score is the maximum of the 5 x 5 scores around it.
    greatest = graph.op("MaxPool", score, kernel_shape=[5, 5], pads=[2, 2, 2, 2], strides=[1, 1])
    kept = graph.op("Where", graph.op("Equal", score, greatest), score, graph.constant(0.0))
    flat = graph.op("Reshape", kept, graph.shape(graph.dim(score, 0), -1))
    scores, places = graph.ops("TopK", 2, flat, graph.constant([top_k]), axis=1, largest=1, sorted=1)
    keypoints = _as_xy(graph, places, side)
    if sampled:
        descriptors = _sampled(graph, features, described, keypoints, places, top_k)
    else:
        descriptors = graph.normalized(_gathered(graph, described, places, 32, top_k), 2)
    return graph.model(
        {"image": [batch, 3, side, side]},
        {
            "score_map": (score, FLOAT, [batch, 1, side, side]),
            "descriptor_map": (described, FLOAT, [batch, 32, side, side]),
            "keypoints": (keypoints, FLOAT, [batch, top_k, 2]),
            "scores": (scores, FLOAT, [batch, top_k]),
            "descriptors": (descriptors, FLOAT, [batch, top_k, 32]),
        },
    )


def _pyramid(graph: Graph, side: int) -> str:
    """Add four scales of residual blocks, upsample them to full size and concatenate them: 32 channels."""
    x, channels, scales = "image", 3, []
    for number, wide in enumerate((8, 16, 24, 32)):
        graph.scope = f"/block{number + 1}/"
        if number:
            x = graph.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = _residual(graph, x, channels, wide)
        channels = wide
        graph.scope = f"/scale{number + 1}/"
        level = graph.op("Selu", _conv(graph, x, wide, 8, 1, "conv"))
        if number:
            factors = graph.constant(np.float32([1, 1, 2**number, 2**number]))
            level = graph.op("Resize", level, "", factors, mode="linear", coordinate_transformation_mode="half_pixel")
        scales.append(level)
    return graph.op("Concat", *scales, axis=1)


def _residual(graph: Graph, x: str, channels: int, wide: int) -> str:
    hidden = graph.op("Selu", _batch_norm(graph, _conv(graph, x, channels, wide, 3, "conv1"), wide, "bn1"))
    hidden = _batch_norm(graph, _conv(graph, hidden, wide, wide, 3, "conv2"), wide, "bn2")
    return graph.op("Selu", graph.op("Add", hidden, _conv(graph, x, channels, wide, 1, "downsample")))


def _conv(graph: Graph, x: str, channels: int, wide: int, size: int, name: str) -> str:
    kernel, bias = (
        graph.weight(f"{name}.weight", wide, channels, size, size),
        graph.weight(f"{name}.bias", wide, scale=0.1),
    )
    return graph.op("Conv", x, kernel, bias, kernel_shape=[size, size], pads=[size // 2] * 4)


def _batch_norm(graph: Graph, x: str, wide: int, name: str) -> str:
    parts = [graph.weight(f"{name}.{part}", wide, scale=0.1, mean=mean) for part, mean in _BATCH_NORM]
    return graph.op("BatchNormalization", x, *parts, epsilon=1e-5)


_BATCH_NORM = (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0))


def _as_xy(graph: Graph, places: str, side: int) -> str:
    """Convert flat pixel indices (batch, k) to pixel centres (batch, k, 2), x and y from -1 to 1."""
    wide = graph.constant(side)
    column = graph.op("Cast", graph.op("Mod", places, wide), to=FLOAT)
    row = graph.op("Cast", graph.op("Div", places, wide), to=FLOAT)
    last = graph.constant([2])
    both = graph.op("Concat", graph.op("Unsqueeze", column, last), graph.op("Unsqueeze", row, last), axis=2)
    return graph.op("Sub", graph.op("Mul", both, graph.constant(2.0 / (side - 1))), graph.constant(1.0))


def _gathered(graph: Graph, maps: str, places: str, channels: int, top_k: int) -> str:
    """Read maps (batch, channels, side, side) at flat pixel indices (batch, k); result (batch, k, channels)."""
    batch = graph.dim(maps, 0)
    flat = graph.op("Reshape", maps, graph.shape(batch, channels, -1))
    wide = graph.op("Unsqueeze", places, graph.constant([1]))
    picked = graph.op("GatherElements", flat, graph.op("Expand", wide, graph.shape(batch, channels, top_k)), axis=2)
    return graph.op("Transpose", picked, perm=[0, 2, 1])


def _sampled(graph: Graph, features: str, maps: str, keypoints: str, places: str, top_k: int) -> str:
    graph.scope = "/desc_head/"
    around = _gathered(graph, features, places, 32, top_k)
    offsets = graph.op("Tanh", graph.linear(around, 32, 2 * 8, "offset"))  # eight samples for each point
    moved = graph.op("Reshape", offsets, graph.shape(graph.dim(offsets, 0), top_k, 8, 2))
    grid = graph.op(
        "Add", graph.op("Mul", moved, graph.constant(0.05)), graph.op("Unsqueeze", keypoints, graph.constant([2]))
    )
    mode = "linear" if graph.opset >= 20 else "bilinear"
    samples = graph.op("GridSample", maps, grid, mode=mode, padding_mode="border", align_corners=1)
    mean = graph.op("Squeeze", graph.reduce("ReduceMean", samples, 3), graph.constant([3]))
    return graph.normalized(graph.op("Transpose", mean, perm=[0, 2, 1]), 2)


def lightglue(
    opset: int = 17, *, layers: int = 2, width: int = 32, heads: int = 2, batch: Dim = "batch", seed: int = 3
) -> onnx.ModelProto:
    """Return a LightGlue-style matcher of two point sets of any size: rotary self-attention and cross-attention.

    keypoints0 (batch, m, 2), keypoints1 (batch, n, 2), descriptors0 (batch, m, width), descriptors1 (batch, n, width)
    -> log_assignment (batch, m, n), matches0 (batch, m) int64 (the best of the other set), match_scores0 (batch, m).
    """
    graph = Graph("lightglue", opset, seed)
    graph.scope = "/posenc/"
    frequencies = graph.weight("Wr.weight", 2, width // heads // 2, scale=2.0)
    turns = [_rotary(graph, f"keypoints{side}", frequencies) for side in range(2)]
    sets = ["descriptors0", "descriptors1"]
    for number in range(layers):
        graph.scope = f"/transformers.{number}/self/"
        weights = _SelfWeights(graph, width)
        sets = [weights.apply(x, turn, heads) for x, turn in zip(sets, turns, strict=True)]
        graph.scope = f"/transformers.{number}/cross/"
        sets = list(_cross(graph, *sets, width, heads))
    graph.scope = "/log_assignment/"
    assignment = _assignment(graph, *sets, width)
    matches = graph.op("ArgMax", assignment, axis=2, keepdims=0)
    best = graph.ops("TopK", 2, assignment, graph.constant([1]), axis=2, largest=1)[0]
    scores = graph.op("Exp", graph.op("Squeeze", best, graph.constant([2])))
    points = {f"keypoints{side}": [batch, size, 2] for side, size in enumerate("mn")}
    described = {f"descriptors{side}": [batch, size, width] for side, size in enumerate("mn")}
    return graph.model(
        points | described,
        {
            "log_assignment": (assignment, FLOAT, [batch, "m", "n"]),
            "matches0": (matches, INT64, [batch, "m"]),
            "match_scores0": (scores, FLOAT, [batch, "m"]),
        },
    )


def _rotary(graph: Graph, keypoints: str, frequencies: str) -> tuple[str, str]:
    """Return cos and sin of the projected points, (batch, 1, m, head). Each value occurs twice in a row."""
    angles = graph.op("MatMul", keypoints, frequencies)
    twice = graph.op("Unsqueeze", angles, graph.constant([3]))
    twice = graph.op("Concat", twice, twice, axis=3)
    flat = graph.op("Reshape", twice, graph.shape(graph.dim(angles, 0), 1, graph.dim(angles, 1), -1))
    return graph.op("Cos", flat), graph.op("Sin", flat)


def _rotated(graph: Graph, x: str, turn: tuple[str, str]) -> str:
    pairs = graph.op("Reshape", x, graph.shape(graph.dim(x, 0), graph.dim(x, 1), graph.dim(x, 2), -1, 2))
    even, odd = graph.ops("Split", 2, pairs, graph.constant([1, 1]), axis=4)
    half = graph.op("Reshape", graph.op("Concat", graph.op("Neg", odd), even, axis=4), graph.op("Shape", x))
    return graph.op("Add", graph.op("Mul", x, turn[0]), graph.op("Mul", half, turn[1]))


def _heads(graph: Graph, x: str, heads: int, width: int) -> str:
    split = graph.op("Reshape", x, graph.shape(graph.dim(x, 0), graph.dim(x, 1), heads, width // heads))
    return graph.op("Transpose", split, perm=[0, 2, 1, 3])


def _joined(graph: Graph, x: str, width: int) -> str:
    turned = graph.op("Transpose", x, perm=[0, 2, 1, 3])
    return graph.op("Reshape", turned, graph.shape(graph.dim(turned, 0), graph.dim(turned, 1), width))


class _Block:
    """A block whose weights both point sets share."""

    def __init__(self, graph: Graph, width: int, names: dict[str, tuple[int, int]]) -> None:
        self.graph, self.width = graph, width
        self.parts = {
            name: (graph.weight(f"{name}.weight", *shape), graph.weight(f"{name}.bias", shape[1], scale=0.02))
            for name, shape in names.items()
        }

    def linear(self, x: str, name: str) -> str:
        weight, bias = self.parts[name]
        return self.graph.op("Add", self.graph.op("MatMul", x, weight), bias)

    def updated(self, x: str, message: str) -> str:
        graph = self.graph
        both = graph.op("Concat", x, self.linear(message, "out_proj"), axis=2)
        hidden = self.linear(both, "ffn.0")
        hidden = graph.gelu(graph.layer_norm(hidden, 2 * self.width, "ffn.norm"))
        return graph.op("Add", x, self.linear(hidden, "ffn.3"))


class _SelfWeights(_Block):
    def __init__(self, graph: Graph, width: int) -> None:
        wide = {"q": (width, width), "k": (width, width), "v": (width, width)}
        super().__init__(graph, width, wide | _ffn(width))

    def apply(self, x: str, turn: tuple[str, str], heads: int) -> str:
        graph = self.graph
        q, k, v = (_heads(graph, self.linear(x, name), heads, self.width) for name in "qkv")
        q, k = _rotated(graph, q, turn), _rotated(graph, k, turn)
        scaled = graph.op("Mul", q, graph.constant((self.width // heads) ** -0.5))
        weights = graph.op("Softmax", graph.op("MatMul", scaled, graph.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
        return self.updated(x, _joined(graph, graph.op("MatMul", weights, v), self.width))


def _ffn(width: int) -> dict[str, tuple[int, int]]:
    return {"out_proj": (width, width), "ffn.0": (2 * width, 2 * width), "ffn.3": (2 * width, width)}


def _cross(graph: Graph, x0: str, x1: str, width: int, heads: int) -> tuple[str, str]:
    """Compute both directions from one product of the shared queries and keys."""
    block = _Block(graph, width, {"to_qk": (width, width), "to_v": (width, width)} | _ffn(width))
    q0, q1 = (_heads(graph, block.linear(x, "to_qk"), heads, width) for x in (x0, x1))
    v0, v1 = (_heads(graph, block.linear(x, "to_v"), heads, width) for x in (x0, x1))
    scale = graph.constant((width // heads) ** -0.5)
    product = graph.op("Mul", graph.op("MatMul", q0, graph.op("Transpose", q1, perm=[0, 1, 3, 2])), scale)
    to0 = graph.op("MatMul", graph.op("Softmax", product, axis=-1), v1)
    turned = graph.op("Softmax", graph.op("Transpose", product, perm=[0, 1, 3, 2]), axis=-1)
    to1 = graph.op("MatMul", turned, v0)
    return block.updated(x0, _joined(graph, to0, width)), block.updated(x1, _joined(graph, to1, width))


def _assignment(graph: Graph, x0: str, x1: str, width: int) -> str:
    """Return the logarithm of a softmax over both sides, times the matchability of each point."""
    weight, bias = graph.weight("final_proj.weight", width, width), graph.weight("final_proj.bias", width, scale=0.02)
    matchable = graph.weight("matchability.weight", width, 1)
    scale = graph.constant(width**-0.25)
    m0, m1 = (graph.op("Mul", graph.op("Add", graph.op("MatMul", x, weight), bias), scale) for x in (x0, x1))
    z0, z1 = (graph.op("Log", graph.op("Sigmoid", graph.op("MatMul", x, matchable))) for x in (x0, x1))
    product = graph.op("MatMul", m0, graph.op("Transpose", m1, perm=[0, 2, 1]))
    both = graph.op("Add", graph.op("LogSoftmax", product, axis=2), graph.op("LogSoftmax", product, axis=1))
    certain = graph.op("Add", z0, graph.op("Transpose", z1, perm=[0, 2, 1]))
    return graph.op("Add", both, certain)
