"""Which precision runs where, and how a model comes to be of it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from preflight.records import BackboneSpec, Precision

__all__ = ["ACCEPTED", "QUANTISED", "chosen_precision", "override_problem", "symmetric", "written_in_onnx"]

ACCEPTED: Mapping[str, tuple[Precision, ...]] = {
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16", "int8"),
    "pytorch_fp16": ("fp16",),
}
"""Runtime -> the precisions of engines it builds. Of fp16 and bf16 OpenVINO builds those the CPU has."""

QUANTISED = frozenset({"Conv", "MatMul"})
"""The operators that run in int8: the others cost little, and lose more than they gain."""

# Who reads its precision out of the ONNX file; the others are told, and compute in it.
_WRITTEN: Mapping[str, frozenset[str]] = {
    "openvino": frozenset({"int8"}),
    "onnxruntime": frozenset({"int8"}),
    "tensorrt": frozenset({"fp16", "int8"}),
    "pytorch_fp16": frozenset(),
}


def written_in_onnx(runtime: str, precision: str) -> bool:
    """Whether an engine of this precision is compiled from an ONNX file that was brought to it before."""
    return precision in _WRITTEN[runtime]


def symmetric(runtime: str) -> bool:
    """Whether int8 values lie around zero, which is all TensorRT reads. Elsewhere they are unsigned, with a zero point.

    OpenVINO runs convolutions of signed values otherwise than ONNX defines them, and half of the levels are lost after Relu.
    """
    return runtime == "tensorrt"


def chosen_precision(spec: BackboneSpec, node: str, kind: str) -> Precision:
    """What a node runs in: the first override that fits, else the spec's precision; fp32 where int8 cannot be.

    node, kind: the node's name and operator. An override to int8 passes by operators that do not run in it.
    """
    for pattern, precision in spec.precision_overrides:
        if fnmatchcase(node, pattern) and (precision != "int8" or kind in QUANTISED):
            return precision
    return "fp32" if spec.precision == "int8" and kind not in QUANTISED else spec.precision


def override_problem(runtime: str, spec: BackboneSpec) -> str | None:
    """Why a runtime cannot do what a backbone's overrides say; None when it can, or there are none."""
    asked = {precision for _, precision in spec.precision_overrides}
    if not asked:
        return None
    if not written_in_onnx(runtime, spec.precision):
        return f"the runtime {runtime} computes all of a model in {spec.precision}; leave precision_overrides out"
    if "int8" in asked and spec.precision != "int8":
        return "a layer in int8 makes it an int8 engine: set precision to int8, and other layers to fp16 or fp32 here"
    if "bf16" in asked:
        return "a single layer is set to fp32, fp16 or int8"
    if "fp16" in asked and runtime != "tensorrt":
        return f"the runtime {runtime} runs what is not int8 in fp32; only tensorrt takes single layers in fp16"
    return None
