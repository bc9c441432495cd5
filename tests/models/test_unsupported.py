"""If a runtime does not implement an operator, the error of the compilation names the operator and its nodes."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from preflight.adapters.onnx.models import inspect
from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.adapters.openvino.runtime import OpenVinoRuntime
from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest


@pytest.fixture
def unary(tmp_path):
    """unary(kind): a valid ONNX graph with two nodes of one operator."""

    def make(kind, domain="", **attributes):
        nodes = [
            helper.make_node(kind, ["x"], ["a"], name=f"/head/{kind}", domain=domain, **attributes),
            helper.make_node(kind, ["x"], ["b"], name=f"/head/{kind}_1", domain=domain, **attributes),
            helper.make_node("Add", ["a", "b"], ["y"], name="/add"),
        ]
        graph = helper.make_graph(
            nodes,
            "unary",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"] if kind == "Det" else ["n", 4, 4])],
        )
        opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
        path = tmp_path / "m.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
        inspect(path)
        return CompileRequest(path, {"x": (1, 4, 4)}, "fp32", 64, 4)

    return make


@pytest.mark.parametrize(("kind", "domain"), [("Det", ""), ("Inverse", "com.microsoft")])
def test_openvino_names_operators_and_nodes(unary, tmp_path, kind, domain):
    named = f"{domain}.{kind}" if domain else kind
    with pytest.raises(EngineBuildError) as caught:
        OpenVinoRuntime().compile(unary(kind, domain), tmp_path / "engine")
    assert f"OpenVINO does not support: {named} (node /head/{kind}, /head/{kind}_1)." in str(caught.value)
    assert not (tmp_path / "engine").exists()


def test_onnx_runtime_names_the_operator(unary, tmp_path):
    with pytest.raises(EngineBuildError, match=r"m\.onnx.*NoSuchOperator"):
        OnnxRuntime().compile(unary("NoSuchOperator", "com.microsoft"), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
