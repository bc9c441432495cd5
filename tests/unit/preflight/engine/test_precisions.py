"""Which precision runs where, as a mission is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from preflight.engine.precisions import chosen_precision, override_problem
from preflight.engine.runtimes import RUNTIMES
from preflight.records import BackboneSpec


def spec(precision, **overrides):
    return BackboneSpec(
        "m", "auxiliary", Path("m.onnx"), {"x": (1, 4)}, precision, precision_overrides=tuple(overrides.items())
    )


def test_who_reads_its_precision_in_the_onnx_file():
    written = {(runtime.name, precision) for runtime in RUNTIMES for precision in runtime.prepared}
    assert written == {
        ("tensorrt", "fp16"),
        *((runtime, "int8") for runtime in ("tensorrt", "openvino", "onnxruntime")),
    }
    assert [runtime.name for runtime in RUNTIMES if runtime.signed_int8] == ["tensorrt"]


@pytest.mark.parametrize(
    ("precision", "overrides", "node", "kind", "expected"),
    [
        ("fp16", {}, "a", "Add", "fp16"),
        ("fp16", {"a": "fp32"}, "a", "Add", "fp32"),
        ("fp16", {"a": "fp32"}, "ab", "Add", "fp16"),
        ("fp16", {"/blocks.1/*": "fp32"}, "/blocks.1/mlp/MatMul", "MatMul", "fp32"),
        ("int8", {}, "a", "MatMul", "int8"),
        ("int8", {}, "a", "Softmax", "fp32"),
        ("int8", {"*": "fp16"}, "a", "MatMul", "fp16"),
        ("int8", {"*": "int8", "a*": "fp16"}, "a", "Conv", "int8"),
        ("int8", {"*": "int8", "a*": "fp16"}, "a", "Softmax", "fp16"),
        ("int8", {"*": "int8", "b*": "fp16"}, "a", "Softmax", "fp32"),
    ],
)
def test_the_first_matching_override_decides(precision, overrides, node, kind, expected):
    assert chosen_precision(spec(precision, **overrides), node, kind) == expected


@pytest.mark.parametrize(
    ("runtime", "precision", "overrides", "said"),
    [
        ("tensorrt", "int8", {"a": "fp16", "b": "fp32", "c": "int8"}, None),
        ("tensorrt", "fp16", {"a": "fp32"}, None),
        ("openvino", "int8", {"a": "fp32"}, None),
        ("openvino", "bf16", {}, None),
        ("openvino", "bf16", {"a": "fp32"}, "openvino computes all of a model in bf16; leave"),
        ("tensorrt", "fp32", {"a": "fp16"}, "computes all of a model in fp32"),
        ("tensorrt", "fp16", {"a": "int8"}, "set precision to int8"),
        ("onnxruntime", "int8", {"a": "fp16"}, "only tensorrt can run single layers in fp16"),
        ("tensorrt", "int8", {"a": "bf16"}, "a single layer is set to fp32, fp16 or int8"),
    ],
)
def test_overrides_that_a_runtime_does_not_support(runtime, precision, overrides, said):
    problem = override_problem(RUNTIMES.named(runtime), spec(precision, **overrides))
    assert problem is None if said is None else said in (problem or "")
