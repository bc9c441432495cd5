"""Precision in ONNX files: which nodes are cast, kept in fp32 or quantised."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from preflight.adapters.onnx.precision import OnnxPrecision
from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.errors import BackboneError, CalibrationCacheError, EngineBuildError
from preflight.records import BackboneSpec

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
TOOLS = OnnxPrecision(lambda: OnnxRuntime().version)
RANDOM = np.random.default_rng(5)


def weight(name, value, kind=np.float32):
    return numpy_helper.from_array(np.asarray(value, kind), name)


@pytest.fixture
def spec_of(tmp_path):
    """spec_of(nodes, weights, outputs) writes a model and returns its spec.

    The input is x (n, 4), fp32. outputs: names of fp32 outputs, or a dict from name to type.
    """

    def make(nodes, weights=(), outputs=("y",), precision="fp16", *, opset=17, **changes):
        kinds = outputs if isinstance(outputs, dict) else dict.fromkeys(outputs, FLOAT)
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", FLOAT, ["n", 4])],
            [helper.make_tensor_value_info(name, kind, ["n", None]) for name, kind in kinds.items()],
            list(weights),
        )
        path = tmp_path / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
        return BackboneSpec("model", "auxiliary", path, {"x": (1, 4)}, precision, **changes)

    return make


@pytest.fixture
def prepare(tmp_path):
    """prepare(spec, x) returns the prepared model, its outputs for x, and the outputs of the fp32 model."""

    def make(spec, x, *, symmetric=True, ranges=None):
        target = tmp_path / "prepared.onnx"
        TOOLS.prepare(
            spec, measured_ranges(spec, x, tmp_path) if ranges is None else ranges, target, symmetric=symmetric
        )
        with OnnxRuntime().reference(target) as engine, OnnxRuntime().reference(spec.onnx_path) as reference:
            return onnx.load(str(target)), engine.run({"x": x}), reference.run({"x": x})

    return make


def measured_ranges(spec, x, folder):
    probe = folder / "probe.onnx"
    TOOLS.probe(spec, probe)
    with OnnxRuntime().reference(probe) as engine:
        return TOOLS.ranges(engine.run({"x": x}))


def node(kind, inputs, outputs, name=None, **attributes):
    return helper.make_node(kind, inputs, outputs, name=name or f"/{kind}_{outputs[0]}", **attributes)


def types(model):
    """Value -> element type, as a runtime would infer it."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    inferred = {value.name: value.type.tensor_type.elem_type for value in values}
    return inferred | {tensor.name: tensor.data_type for tensor in graph.initializer}


def output_type(model, name):
    """The type of the first output of the node with this name."""
    return types(model)[next(node.output[0] for node in model.graph.node if node.name == name)]


ONES = np.full((2, 4), 3.0, np.float32)


def test_a_probe_measures_the_range_of_each_tensor(spec_of, tmp_path):
    spec = spec_of([node("Mul", ["x", "two"], ["a"]), node("Relu", ["a"], ["y"])], [weight("two", 2.0)])
    x = np.array([[-3, 0, 1, 2], [0, 0, 0, 5]], np.float32)
    assert measured_ranges(spec, x, tmp_path) == {"x": (-3.0, 5.0), "a": (-6.0, 10.0), "y": (0.0, 10.0)}


def test_inputs_and_outputs_stay_fp32(spec_of, prepare):
    spec = spec_of([node("Mul", ["x", "w"], ["y"]), node("Relu", ["y"], ["z"])], [weight("w", 0.3)], ("y", "z"))
    model, actual, expected = prepare(spec, ONES)
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [FLOAT] * 3
    assert [value.name for value in model.graph.output] == ["y", "z"]
    assert output_type(model, "/Mul_y") == output_type(model, "/Relu_z") == HALF
    for name in ("y", "z"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-3)


def test_values_that_overflow_stay_fp32_between_nodes_too(spec_of, prepare):
    """A value between two fp32 nodes is not rounded: 300,000 would be infinite in fp16."""
    nodes = [node("Mul", ["x", "big"], ["a"]), node("Mul", ["a", "small"], ["b"]), node("Relu", ["b"], ["y"])]
    model, actual, expected = prepare(spec_of(nodes, [weight("big", 1e5), weight("small", 1e-3)]), ONES)
    np.testing.assert_allclose(actual["y"], expected["y"], rtol=1e-3)
    assert (output_type(model, "/Mul_a"), output_type(model, "/Mul_b"), output_type(model, "/Relu_y")) == (
        FLOAT,
        FLOAT,
        HALF,
    )
    assert Counter(node.op_type for node in model.graph.node)["Cast"] == 2


def test_a_margin_covers_values_beyond_those_of_the_samples(spec_of, prepare):
    nodes = [node("Mul", ["x", "w"], ["y"]), node("Neg", ["x"], ["z"])]
    spec = spec_of(nodes, [weight("w", 1e4)], ("y", "z"))
    model, _, _ = prepare(spec, ONES)
    assert output_type(model, "/Mul_y") == HALF
    model, _, _ = prepare(spec, ONES * 1.2)  # 36,000 fits, but without the margin
    assert output_type(model, "/Mul_y") == FLOAT


def test_weights_that_vanish_or_overflow_keep_their_node_in_fp32(spec_of, prepare):
    nodes = [node("Add", ["x", "epsilon"], ["a"]), node("Clip", ["a", "", "most"], ["b"]), node("Relu", ["b"], ["y"])]
    model, _, _ = prepare(spec_of(nodes, [weight("epsilon", 1e-9), weight("most", 1e6)]), ONES)
    assert (output_type(model, "/Add_a"), output_type(model, "/Clip_b"), output_type(model, "/Relu_y")) == (
        FLOAT,
        FLOAT,
        HALF,
    )
    assert {tensor.name: tensor.data_type for tensor in model.graph.initializer} == {"epsilon": FLOAT, "most": FLOAT}


def test_a_weight_that_nodes_of_both_types_read_is_stored_in_both(spec_of, prepare):
    nodes = [node("Mul", ["x", "w"], ["a"]), node("Mul", ["a", "w"], ["y"])]
    spec = spec_of(nodes, [weight("w", 0.1)], precision_overrides=(("/Mul_a", "fp32"),))
    model, actual, expected = prepare(spec, ONES)
    assert sorted(tensor.data_type for tensor in model.graph.initializer) == [FLOAT, HALF]
    assert (output_type(model, "/Mul_a"), output_type(model, "/Mul_y")) == (FLOAT, HALF)
    np.testing.assert_allclose(actual["y"], expected["y"], rtol=1e-3)


def test_sums_of_squares_stay_fp32_and_integers_stay_integers(spec_of, prepare):
    """Each value 300 fits in fp16, and so does the norm of four. Their sum of squares does not."""
    nodes = [
        node("ReduceL2", ["x"], ["norm"], axes=[1]),
        node("Div", ["x", "norm"], ["unit"]),
        node("Cast", ["unit"], ["whole"], to=TensorProto.INT64),
        node("Cast", ["whole"], ["back"], to=FLOAT),
        node("Add", ["unit", "back"], ["y"]),
    ]
    model, actual, expected = prepare(spec_of(nodes), np.full((1, 4), 300, np.float32))
    assert output_type(model, "/ReduceL2_norm") == FLOAT
    assert output_type(model, "/Cast_back") == output_type(model, "/Div_unit") == HALF
    np.testing.assert_allclose(actual["y"], expected["y"], rtol=1e-3)


def test_values_that_a_subgraph_reads_stay_fp32(spec_of, prepare):
    branch = helper.make_graph(
        [node("Relu", ["a"], ["in"])], "then", [], [helper.make_tensor_value_info("in", FLOAT, ["n", 4])]
    )
    other = helper.make_graph(
        [node("Neg", ["a"], ["out"])], "else", [], [helper.make_tensor_value_info("out", FLOAT, ["n", 4])]
    )
    nodes = [
        node("Mul", ["x", "w"], ["a"]),
        node("If", ["yes"], ["b"], then_branch=branch, else_branch=other),
        node("Sqrt", ["b"], ["y"]),
    ]
    model, actual, expected = prepare(spec_of(nodes, [weight("w", 0.5), weight("yes", True, bool)]), ONES)
    assert (output_type(model, "/Mul_a"), output_type(model, "/If_b"), output_type(model, "/Sqrt_y")) == (
        FLOAT,
        FLOAT,
        HALF,
    )
    np.testing.assert_allclose(actual["y"], expected["y"], rtol=1e-3)


def test_constants_nameless_nodes_and_types_in_attributes(spec_of, prepare):
    """Exporters write nodes without names, constants as nodes, and types in attributes."""
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight("", [0.5, 1, 2, 4])),
        helper.make_node("Constant", [], ["third"], value_float=1 / 3),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "zeros"], ["b"]),
        helper.make_node("Mul", ["b", "third"], ["y"]),
    ]
    model, actual, expected = prepare(spec_of(nodes), ONES)
    np.testing.assert_allclose(actual["y"], expected["y"], rtol=1e-3)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "" not in names


def test_integer_outputs(spec_of, prepare):
    nodes = [node("Relu", ["x"], ["a"]), node("ArgMax", ["a"], ["best"], axis=1), node("Neg", ["a"], ["y"])]
    x = np.array([[0, 1, 1.0001, 0.5]], np.float32)
    _, actual, expected = prepare(spec_of(nodes, (), {"y": FLOAT, "best": TensorProto.INT64}), x)
    np.testing.assert_allclose(actual["y"], expected["y"], rtol=1e-3)


def test_a_model_without_a_node_to_cast_is_refused(spec_of, prepare):
    with pytest.raises(EngineBuildError, match=r"no layer can run in fp16\. Set `precision` to fp32"):
        prepare(spec_of([node("ReduceL2", ["x"], ["y"], axes=[1])]), ONES)


def test_a_table_without_the_range_of_a_tensor_is_refused(spec_of, prepare):
    for precision, nodes in (("fp16", [node("Relu", ["x"], ["y"])]), ("int8", [node("MatMul", ["x", "w"], ["y"])])):
        with pytest.raises(CalibrationCacheError, match=r"no range of x.*recalibrate=1"):
            prepare(spec_of(nodes, [weight("w", np.eye(4))], precision=precision), ONES, ranges={"y": (0.0, 1.0)})


DENSE = [
    node("MatMul", ["x", "w"], ["a"]),
    node("Add", ["a", "b"], ["c"]),
    node("Relu", ["c"], ["d"]),
    node("MatMul", ["d", "v"], ["y"]),
]
DENSE_WEIGHTS = [
    weight("w", RANDOM.normal(size=(4, 16))),
    weight("b", RANDOM.normal(size=16)),
    weight("v", RANDOM.normal(size=(16, 8))),
]
SAMPLES = RANDOM.normal(size=(64, 4)).astype(np.float32)


def scales(model):
    """The element types of the zero points, of activations and of weights."""
    points = {tensor.name: tensor for tensor in model.graph.initializer}
    return {points[node.input[2]].data_type for node in model.graph.node if node.op_type == "QuantizeLinear"}


@pytest.mark.parametrize("symmetric", [True, False])
def test_int8_quantises_the_inputs_of_products(spec_of, prepare, symmetric):
    model, actual, expected = prepare(spec_of(DENSE, DENSE_WEIGHTS, precision="int8"), SAMPLES, symmetric=symmetric)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (
        2,
        4,
    )  # two values, and two weights that are stored in int8
    assert scales(model) == {TensorProto.INT8 if symmetric else TensorProto.UINT8}
    weights = [
        numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8
    ]
    assert {tuple(array.shape) for array in weights} >= {(4, 16), (16, 8)}
    error = np.linalg.norm(actual["y"] - expected["y"]) / np.linalg.norm(expected["y"])
    assert 0 < error < 0.03
    # TensorRT reads symmetric values only: every zero point is zero.
    zero = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name.endswith("_zero_point")]
    assert not symmetric or all((array == 0).all() for array in zero)


def test_int8_skips_the_layers_that_the_mission_names(spec_of, prepare):
    spec = spec_of(DENSE, DENSE_WEIGHTS, precision="int8", precision_overrides=(("/MatMul_y", "fp32"),))
    model, _, _ = prepare(spec, SAMPLES)
    assert Counter(node.op_type for node in model.graph.node)["QuantizeLinear"] == 1


def test_int8_with_the_rest_in_fp16(spec_of, prepare):
    overrides = (("/MatMul_y", "int8"), ("*", "fp16"))
    model, actual, expected = prepare(
        spec_of(DENSE, DENSE_WEIGHTS, precision="int8", precision_overrides=overrides), SAMPLES
    )
    assert [output_type(model, name) for name in ("/MatMul_a", "/Relu_d", "/MatMul_y")] == [HALF, HALF, FLOAT]
    assert Counter(node.op_type for node in model.graph.node)["QuantizeLinear"] == 1
    assert np.linalg.norm(actual["y"] - expected["y"]) / np.linalg.norm(expected["y"]) < 0.03


def test_values_without_bounds_are_not_quantised(spec_of, prepare):
    nodes = [node("Log", ["x"], ["a"]), node("MatMul", ["a", "w"], ["b"]), node("MatMul", ["x", "w"], ["y"])]
    x = np.zeros((2, 4), np.float32)
    model, _, _ = prepare(spec_of(nodes, [weight("w", np.eye(4))], ("b", "y"), precision="int8"), x)
    assert [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"] == ["x"]
    with pytest.raises(EngineBuildError, match=r"no layer can run in int8"):
        prepare(spec_of(nodes[:2], [weight("w", np.eye(4))], ("b",), precision="int8"), x)


@pytest.mark.parametrize(
    ("pattern", "precision", "message"),
    [
        (
            "/block*",
            "fp32",
            r"precision_overrides of model names. Correct the pattern; the 4 nodes begin with /MatMul_a, /Add_c",
        ),
        ("/Add*", "int8", r"int8 in '/Add\*', but only Conv and MatMul run in int8"),
    ],
)
def test_overrides_that_match_no_node_are_refused_before_a_probe_is_written(
    spec_of, tmp_path, pattern, precision, message
):
    spec = spec_of(DENSE, DENSE_WEIGHTS, precision="int8", precision_overrides=((pattern, precision),))
    with pytest.raises(BackboneError, match=message):
        TOOLS.probe(spec, tmp_path / "probe.onnx")
    assert not (tmp_path / "probe.onnx").exists()


def test_an_fp16_file_does_not_change(spec_of, prepare):
    nodes = [node("Cast", ["x"], ["a"], to=HALF), node("Relu", ["a"], ["b"]), node("Cast", ["b"], ["y"], to=FLOAT)]
    spec = spec_of(nodes, precision_overrides=(("/Cast_y", "fp32"),))
    model, _, _ = prepare(spec, ONES)
    assert model.graph.node == onnx.load(str(spec.onnx_path)).graph.node


def test_int8_needs_an_opset_with_scales_per_channel(spec_of, prepare):
    with pytest.raises(EngineBuildError, match=r"has opset 12, which.*Export it with opset 13"):
        prepare(spec_of(DENSE, DENSE_WEIGHTS, precision="int8", opset=12), SAMPLES)


def test_a_quantised_file_is_refused(spec_of, prepare, tmp_path):
    spec = spec_of(DENSE, DENSE_WEIGHTS, precision="int8")
    prepare(spec, SAMPLES)
    (tmp_path / "prepared.onnx").rename(spec.onnx_path)
    with pytest.raises(EngineBuildError, match=r"quantised already.*Give the fp32 model"):
        TOOLS.probe(spec, tmp_path / "probe.onnx")


def test_another_process_writes_the_same_bytes(spec_of, prepare, tmp_path):
    overrides = (("/MatMul_y", "int8"), ("*", "fp16"))
    spec = spec_of(DENSE, DENSE_WEIGHTS, precision="int8", precision_overrides=overrides)
    ranges = measured_ranges(spec, SAMPLES, tmp_path)
    prepare(spec, SAMPLES)
    program = (
        "import sys; from pathlib import Path\n"
        "from preflight.adapters.onnx.precision import OnnxPrecision\n"
        "from preflight.adapters.onnxruntime.runtime import OnnxRuntime\n"
        "from preflight.records import BackboneSpec\n"
        "spec = BackboneSpec('model', 'auxiliary', Path(sys.argv[1]), {'x': (1, 4)}, 'int8', "
        f"precision_overrides={overrides!r})\n"
        f"OnnxPrecision(lambda: OnnxRuntime().version).prepare(spec, {ranges!r}, Path(sys.argv[2]), symmetric=True)\n"
    ).replace("\\\n", "\\n")
    subprocess.run([sys.executable, "-c", program, str(spec.onnx_path), str(tmp_path / "again.onnx")], check=True)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "prepared.onnx").read_bytes()
