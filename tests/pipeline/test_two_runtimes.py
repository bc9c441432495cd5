"""A corpus with two runtimes: that of the mission, and another one that a backbone chooses."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save


def write_tiny(path):
    weights = numpy_helper.from_array(np.eye(8, dtype=np.float32) * 2, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="double")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [weights],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_backbone_can_choose_its_own_runtime(built):
    write_tiny(built.folder / "tiny.onnx")
    tiny = {
        "model_name": "tiny",
        "onnx_path": "tiny.onnx",
        "input_name": "x",
        "expected_input_shape": [1, 8],
        "runtime": "onnxruntime",
    }
    built.edit(lambda mission: mission["components"]["c10_provisioning"]["backbones"].append(tiny))
    done = built.provision_json()
    assert done.status == 0, done.said
    # The descriptor's engine does not change.
    assert done.ran == ["model:tiny", "engine:tiny", "parity:tiny", "corpus", "manifest", "publish"]
    predicate = built.manifest["predicate"]
    runtimes = {model["model_name"]: (model["runtime"], model["engine"]) for model in predicate["identity"]["models"]}
    assert runtimes["weight_free_vpr"][0] == "openvino"
    assert runtimes["tiny"][0] == "onnxruntime"
    assert "_onnxruntime" in runtimes["tiny"][1]
    assert {"openvino", "onnxruntime"} <= predicate["builder"].keys()
    assert built.takeoff().status == 0
    assert built.provision_json().ran == []


def test_the_runtime_of_a_backbone_must_support_its_precision(built):
    def change(mission):
        backbone = mission["components"]["c10_provisioning"]["backbones"][0]
        backbone.update(runtime="onnxruntime", precision="bf16")

    built.edit(change)
    done = built.provision()
    assert done.status == 1
    assert (
        "backbones[0].precision: the runtime onnxruntime builds fp32 and int8 engines alone, not bf16" in done.sentences
    )
