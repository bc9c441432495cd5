from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from preflight.adapters.demo.weight_free_vpr import build_model
from preflight.adapters.onnx.models import content_digest, inspect
from preflight.errors import BackboneError
from preflight.records import BackboneSpec


def _model(batch="batch", opset=17):
    weight = numpy_helper.from_array(np.ones((6, 400), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "y"], ["out"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 6]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 400]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 400]),  # old exporters list weights as inputs
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 400])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _spec(path, **inputs):
    return BackboneSpec("matcher", "auxiliary", path, inputs, "fp32")


@pytest.fixture
def model_path(tmp_path):
    onnx.save(_model(), str(tmp_path / "m.onnx"))
    return tmp_path / "m.onnx"


@pytest.fixture
def external_path(tmp_path):
    folder = tmp_path / "external"
    (folder / "parts").mkdir(parents=True)
    onnx.save(_model(), str(folder / "m.onnx"), save_as_external_data=True, location="parts/w.bin", size_threshold=100)
    return folder / "m.onnx"


def _relocate(path: Path, location: str) -> None:
    model = onnx.load(str(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())


def test_interface_is_read(model_path):
    model = inspect(model_path)
    assert model.inputs == {"x": (None, 6), "y": (None, 400)}
    assert model.outputs == {"out": (None, 400)}
    assert model.types == {"x": "FLOAT", "y": "FLOAT"}
    assert model.opset == 17
    assert model.external_data == ()


def test_the_weight_free_backbone_fits_its_mission(tmp_path):
    path = tmp_path / "weight_free_vpr.onnx"
    path.write_bytes(build_model())
    model = inspect(path)
    assert model.inputs == {"image": (None, 3, 224, 224)}
    model.check_against(_spec(path, image=(1, 3, 224, 224)))
    with pytest.raises(BackboneError, match="256"):
        model.check_against(_spec(path, image=(1, 3, 256, 256)))


def test_external_data_is_listed(external_path):
    assert inspect(external_path).external_data == (external_path.parent / "parts" / "w.bin",)


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": (1, 6)},
        {"x": (1, 6), "z": (1, 400)},
        {"x": (1, 6), "y": (1, 401)},
        {"x": (1, 6, 1), "y": (1, 400)},
        {"x": (1, 6), "y": (1, 400), "w": (6, 400)},
    ],
    ids=["missing", "name", "size", "rank", "extra"],
)
def test_the_message_for_different_inputs_shows_model_and_mission(model_path, inputs):
    with pytest.raises(
        BackboneError, match=r"(?s)matcher.*ONNX file: x \[any, 6\]; y \[any, 400\].*mission: .*x \[1, 6"
    ):
        inspect(model_path).check_against(_spec(model_path, **inputs))


def test_a_fixed_batch_size_fits_only_itself(tmp_path):
    onnx.save(_model(batch=2), str(tmp_path / "two.onnx"))
    model = inspect(tmp_path / "two.onnx")
    model.check_against(_spec(tmp_path, x=(2, 6), y=(2, 400)))
    with pytest.raises(BackboneError, match=r"two\.onnx"):
        model.check_against(_spec(tmp_path, x=(1, 6), y=(1, 400)))


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x08"])
def test_a_file_that_is_no_onnx_is_refused(tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(BackboneError, match=r"bad\.onnx"):
        inspect(tmp_path / "bad.onnx")


def test_a_truncated_file_is_refused(model_path):
    model_path.write_bytes(model_path.read_bytes()[:-40])
    with pytest.raises(BackboneError, match=r"m\.onnx"):
        inspect(model_path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(BackboneError, match="cannot be read"):
            inspect(path)


def test_a_model_that_fails_the_checker_is_refused(tmp_path):
    model = _model()
    model.graph.node[0].op_type = "NoSuchOperator"
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackboneError, match=r"(?s)bad.onnx.*NoSuchOperator"):
        inspect(tmp_path / "bad.onnx")


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "parts/../../w.bin", "", "parts/link.bin"])
def test_external_data_outside_the_folder_is_refused(external_path, location):
    weights = external_path.parent / "parts" / "w.bin"
    outside = external_path.parent.parent / "w.bin"
    outside.write_bytes(weights.read_bytes())
    (external_path.parent / "parts" / "link.bin").symlink_to(outside)
    _relocate(external_path, location)
    with pytest.raises(BackboneError, match="outside its folder"):
        inspect(external_path)


def test_missing_external_data_is_refused(external_path):
    (external_path.parent / "parts" / "w.bin").unlink()
    with pytest.raises(BackboneError, match="does not exist"):
        inspect(external_path)


def test_digest_of_one_file_is_its_sha256(model_path):
    assert content_digest(model_path) == hashlib.sha256(model_path.read_bytes()).hexdigest()


def test_digest_covers_external_data(external_path):
    weights = external_path.parent / "parts" / "w.bin"
    before = content_digest(external_path)
    assert before == content_digest(external_path, [weights])
    lines = [
        f"{hashlib.sha256(external_path.read_bytes()).hexdigest()}  m.onnx\n",
        f"{hashlib.sha256(weights.read_bytes()).hexdigest()}  parts/w.bin\n",
    ]
    assert before == hashlib.sha256("".join(lines).encode()).hexdigest()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert content_digest(external_path) != before
    weights.unlink()
    with pytest.raises(BackboneError, match=r"w\.bin"):
        content_digest(external_path, [weights])


def test_external_data_in_subgraphs_is_found(external_path, tmp_path):
    model = onnx.load(str(external_path), load_external_data=False)
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 400])])
    inner.initializer.append(model.graph.initializer[0])
    inner.initializer[0].external_data[0].value = "../elsewhere.bin"
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))
    external_path.write_bytes(model.SerializeToString())
    with pytest.raises(BackboneError, match="elsewhere"):
        inspect(external_path)


def test_external_data_in_a_function_of_the_model_is_found(external_path):
    model = onnx.load(str(external_path), load_external_data=False)
    constant = helper.make_node("Constant", [], ["c"], value=model.graph.initializer[0])
    constant.attribute[0].t.external_data[0].value = "../elsewhere.bin"
    function = helper.make_function("own", "F", ["a"], ["c"], [constant], [helper.make_opsetid("", 17)])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("F", ["x"], ["z"], domain="own"))
    external_path.write_bytes(model.SerializeToString())
    with pytest.raises(BackboneError, match="elsewhere"):
        inspect(external_path)


def test_the_message_names_unsupported_operators_with_their_nodes(tmp_path):
    model = _model()
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node[1].input[0] = "f3"
    foreign = [helper.make_node("Foo", ["m"], [f"f{n}"], name=f"/head/Foo_{n}", domain="com.example") for n in range(4)]
    contrib = helper.make_node("FusedGelu", ["m"], ["b"], name="/gelu", domain="com.microsoft")
    inner = helper.make_graph(
        [helper.make_node("Bar", ["m"], ["i"], domain="com.example")],
        "inner",
        [],
        [helper.make_tensor_value_info("i", TensorProto.FLOAT, None)],
    )
    condition = numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    branch = helper.make_node("If", ["condition"], ["j"], then_branch=inner, else_branch=inner)
    for node in (*foreign, contrib, branch):
        model.graph.node.insert(len(model.graph.node) - 1, node)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BackboneError) as caught:
        inspect(tmp_path / "m.onnx")
    listed = "com.example.Bar (node i, i); com.example.Foo (node /head/Foo_0, /head/Foo_1, /head/Foo_2 and 1 more)."
    assert listed in str(caught.value)
    assert "FusedGelu" not in str(caught.value)


def test_functions_of_the_model_are_supported_operators(tmp_path):
    model = _model()
    double = helper.make_node("Add", ["a", "a"], ["b"])
    model.functions.append(helper.make_function("own", "Double", ["a"], ["b"], [double], [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[1].input[0] = "d"
    model.graph.node.insert(1, helper.make_node("Double", ["m"], ["d"], domain="own"))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert inspect(tmp_path / "m.onnx").outputs == {"out": (None, 400)}


def test_a_descriptor_backbone_must_take_pixels_as_fp32(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["out"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT16, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT16, ["n", 3, 8, 8])],
    )
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    model = inspect(path)
    spec = _spec(path, image=(1, 3, 8, 8))
    model.check_against(spec)  # an auxiliary model gets no pixels
    with pytest.raises(BackboneError, match=r"half\.onnx: matcher must take pixels as fp32.*FLOAT16"):
        model.check_against(replace(spec, role="descriptor"))


def test_truncated_weights_are_refused(external_path):
    weights = external_path.parent / "parts" / "w.bin"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(
        BackboneError, match=r"m\.onnx needs 9600 bytes of 'parts/w\.bin', but that file is truncated to 9596"
    ):
        inspect(external_path)


def test_external_data_is_not_looked_up_beside_the_target_of_a_link(external_path, tmp_path):
    (tmp_path / "link.onnx").symlink_to(external_path)
    with pytest.raises(BackboneError, match=r"link\.onnx"):
        inspect(tmp_path / "link.onnx")
