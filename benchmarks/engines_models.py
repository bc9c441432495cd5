"""The models: a ViT-S/14 with seeded weights, the same ViT by hand in PyTorch, and a graph that does nothing."""

# ruff: noqa: PLC0415, ANN401 - PyTorch is optional: functions that need it import it, without its types
from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from engines_sides import INPUT, OUTPUT, SIDE
from onnx import TensorProto, helper, numpy_helper

ARCHITECTURES = Path(__file__).resolve().parent.parent / "tests" / "models" / "architectures.py"


def write(folder: Path) -> tuple[Path, Path]:
    """Write both ONNX files. Returns the paths of the ViT and of the empty graph."""
    vit, empty = folder / "vit.onnx", folder / "empty.onnx"
    spec = importlib.util.spec_from_file_location("architectures", ARCHITECTURES)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{ARCHITECTURES} cannot be imported")
    architectures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architectures)
    onnx.save(architectures.vit(17), str(vit))
    onnx.save(nothing(), str(empty))
    return vit, empty


def nothing() -> onnx.ModelProto:
    """Build a graph with the ViT's input and almost no work: it outputs the first line of the first channel."""
    first = numpy_helper.from_array(np.array(0), "first")
    nodes = [
        helper.make_node("Gather", [INPUT, "first"], ["channel"], axis=1),
        helper.make_node("Gather", ["channel", "first"], [OUTPUT], axis=1),
    ]
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", SIDE])]
    graph = helper.make_graph(nodes, "nothing", inputs, outputs, [first])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def eager(vit: Path, precision: str) -> Callable[[Any], Any]:
    """Return the ViT written by hand in PyTorch, with the weights of the ONNX file.

    Args:
        vit: the ONNX file.
        precision: fp16 or fp32.
    """
    import torch
    from torch.nn import functional

    kind = {"fp16": torch.float16, "fp32": torch.float32}[precision]
    stored = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in onnx.load(str(vit)).graph.initializer}
    weights = {name: torch.from_numpy(array).to(kind) for name, array in stored.items() if array.dtype.kind == "f"}
    depth = 1 + max(int(name.split(".")[1].split("/")[0]) for name in weights if name.startswith("/blocks."))
    heads = 6

    def norm(x: Any, name: str) -> Any:
        return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def block(x: Any, scope: str) -> Any:
        batch, tokens, width = x.shape
        qkv = linear(norm(x, f"{scope}norm1"), f"{scope}attn.qkv").view(batch, tokens, 3, heads, width // heads)
        mixed = functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
        mixed = linear(mixed.transpose(1, 2).reshape(batch, tokens, width), f"{scope}attn.proj")
        x = x + mixed * weights[f"{scope}ls1.gamma"]
        hidden = functional.gelu(linear(norm(x, f"{scope}norm2"), f"{scope}mlp.fc1"))
        return x + linear(hidden, f"{scope}mlp.fc2") * weights[f"{scope}ls2.gamma"]

    def forward(image: Any) -> Any:
        x = functional.conv2d(
            image.to(kind), weights["/patch_embed/proj.weight"], weights["/patch_embed/proj.bias"], 14
        )
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([weights["/cls_token"].expand(len(x), 1, -1), x], 1) + weights["/pos_embed"]
        for number in range(depth):
            x = block(x, f"/blocks.{number}/")
        return functional.normalize(norm(x, "/norm")[:, 0].float(), dim=1)

    return forward
