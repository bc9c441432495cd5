"""Compares every operator of the table with ONNX Runtime, on graphs with one node."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.errors import EngineBuildError

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[cpu,torch]'")

from preflight.adapters.pytorch.graph import read_graph  # noqa: E402 - imports PyTorch
from preflight.adapters.pytorch.operators import OPERATORS  # noqa: E402 - imports PyTorch

R = np.random.default_rng(11)
F = np.float32


def _numbers(*shape):
    return R.normal(size=shape).astype(F)


def _ints(*numbers):
    return np.array(numbers, np.int64)


IMAGE, ROWS = _numbers(2, 4, 8, 8), _numbers(2, 5, 6)
# operator, data inputs, constant inputs after them (None: absent), attributes, opset
CASES = [
    *((kind, [ROWS], [], {}, 17) for kind in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Neg", "Relu")),
    *((kind, [ROWS], [], {}, 17) for kind in ("Sigmoid", "Sign", "Sin", "Softplus", "Tanh", "Identity", "Selu", "Elu")),
    *((kind, [np.abs(ROWS) + F(0.1)], [], {}, 17) for kind in ("Log", "Sqrt", "Reciprocal")),
    ("Elu", [ROWS], [], {"alpha": 0.5}, 17),
    ("LeakyRelu", [ROWS], [], {"alpha": 0.2}, 17),
    ("HardSigmoid", [ROWS], [], {"alpha": 0.3, "beta": 0.4}, 17),
    ("Gelu", [ROWS], [], {}, 20),
    ("Gelu", [ROWS], [], {"approximate": "tanh"}, 20),
    ("PRelu", [ROWS], [_numbers(6)], {}, 17),
    ("Dropout", [ROWS], [], {}, 17),
    *((kind, [ROWS, _numbers(2, 5, 6)], [], {}, 17) for kind in ("Add", "Sub", "Mul", "Div", "Min", "Max")),
    *((kind, [ROWS], [_numbers(6)], {}, 17) for kind in ("Add", "Sub", "Mul", "Div")),
    *((kind, [ROWS], [F(2.5)], {}, 17) for kind in ("Add", "Sub", "Mul", "Div")),
    ("Add", [ROWS], [np.array([2.5], F)], {}, 17),
    ("Min", [ROWS], [F(0.5)], {}, 17),
    ("Max", [ROWS], [F(0.5)], {}, 17),
    ("Pow", [np.abs(ROWS)], [F(2)], {}, 17),
    ("Pow", [np.abs(ROWS)], [np.array(3, np.int64)], {}, 17),
    ("Clip", [ROWS], [F(-0.5), F(0.5)], {}, 17),
    ("Clip", [ROWS], [F(0)], {}, 17),
    ("Clip", [ROWS], [None, F(0)], {}, 17),
    ("Conv", [IMAGE], [_numbers(6, 4, 3, 3), _numbers(6)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}, 17),
    ("Conv", [IMAGE], [_numbers(6, 4, 3, 3)], {"pads": [0, 1, 2, 1]}, 17),
    ("Conv", [IMAGE], [_numbers(8, 1, 3, 3), _numbers(8)], {"group": 4, "dilations": [2, 1]}, 17),
    ("Conv", [ROWS], [_numbers(3, 5, 2), _numbers(3)], {}, 17),
    ("Conv", [IMAGE], [_numbers(1, 4, 3, 3), _numbers(1)], {}, 17),
    ("BatchNormalization", [IMAGE[:, :1]], [*_numbers(3, 1), np.ones(1, F)], {}, 17),
    ("InstanceNormalization", [IMAGE[:, :1]], [_numbers(1), _numbers(1)], {}, 17),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 17),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [2, 3], "pads": [0, 0, 1, 2]}, 17),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 1, 0]}, 17),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, 17),
    ("GlobalAveragePool", [IMAGE], [], {}, 17),
    ("GlobalMaxPool", [IMAGE], [], {}, 17),
    ("MatMul", [ROWS], [_numbers(6, 3)], {}, 17),
    ("MatMul", [ROWS, _numbers(2, 6, 4)], [], {}, 17),
    ("Gemm", [_numbers(2, 6)], [_numbers(3, 6), _numbers(3)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 17),
    ("Gemm", [_numbers(2, 6)], [_numbers(6, 3)], {}, 17),
    ("Softmax", [ROWS], [], {"axis": 1}, 17),
    ("Softmax", [ROWS], [], {}, 17),
    ("LogSoftmax", [ROWS], [], {"axis": -1}, 17),
    ("LayerNormalization", [ROWS], [_numbers(6), _numbers(6)], {"epsilon": 1e-3}, 17),
    ("LayerNormalization", [ROWS], [_numbers(6)], {"axis": 2}, 17),
    ("BatchNormalization", [IMAGE], [*_numbers(3, 4), np.abs(_numbers(4)) + F(0.5)], {"epsilon": 1e-3}, 17),
    ("InstanceNormalization", [IMAGE], [_numbers(4), _numbers(4)], {"epsilon": 1e-3}, 17),
    *((f"Reduce{kind}", [ROWS], [], {"axes": [1], "keepdims": 0}, 17) for kind in ("Mean", "Max", "Min", "L2", "SumSquare")),
    *((f"Reduce{kind}", [ROWS], [_ints(-1)], {"keepdims": 1}, 18) for kind in ("Mean", "Max", "Min", "L2", "SumSquare")),
    ("ReduceSum", [ROWS], [_ints(1, 2)], {"keepdims": 0}, 13),
    ("ReduceMean", [ROWS], [], {}, 17),
    ("ReduceMean", [ROWS], [], {"noop_with_empty_axes": 1}, 18),
    ("Reshape", [ROWS], [_ints(0, -1)], {}, 17),
    ("Reshape", [ROWS], [_ints(0, 3, 2, 5)], {}, 17),
    ("Flatten", [IMAGE], [], {}, 17),
    ("Flatten", [IMAGE], [], {"axis": 2}, 17),
    ("Transpose", [IMAGE], [], {"perm": [0, 2, 3, 1]}, 17),
    ("Transpose", [ROWS], [], {}, 17),
    ("Concat", [ROWS, _numbers(2, 3, 6)], [], {"axis": 1}, 17),
    ("Split", [ROWS], [_ints(2, 4)], {"axis": 2}, 17),
    ("Split", [ROWS], [], {"axis": 2, "num_outputs": 2}, 18),
    ("Slice", [ROWS], [_ints(1), _ints(2**63 - 1), _ints(1), _ints(2)], {}, 17),
    ("Slice", [ROWS], [_ints(0, -3), _ints(1, -1), _ints(0, 2)], {}, 17),
    ("Slice", [ROWS], [_ints(0), _ints(1)], {}, 17),
    ("Gather", [ROWS], [np.array(-1, np.int64)], {"axis": 1}, 17),
    ("Gather", [ROWS], [_ints(3, 0, -1)], {"axis": 2}, 17),
    ("Squeeze", [ROWS[:, :1]], [_ints(1)], {}, 17),
    ("Unsqueeze", [ROWS], [_ints(-1, 1)], {}, 17),
    ("Expand", [ROWS[:, :1]], [_ints(3, 1, 4, 1)], {}, 17),
    ("Expand", [ROWS[:, :1]], [_ints(5, 6)], {}, 17),
    ("Pad", [IMAGE], [_ints(0, 0, 1, 2, 0, 0, 3, 4)], {}, 17),
    ("Pad", [IMAGE], [_ints(0, 0, 1, 2, 0, 0, 3, 4), F(1.5)], {}, 17),
    ("Pad", [IMAGE], [_ints(0, 0, 1, 2, 0, 0, 3, 4)], {"mode": "reflect"}, 17),
    ("Resize", [IMAGE], [None, np.array([1, 1, 2, 2], F)], {"mode": "linear"}, 17),
    ("Resize", [IMAGE], [None, None, _ints(2, 4, 5, 12)], {"mode": "linear"}, 17),
    ("Resize", [IMAGE], [None, None, _ints(2, 4, 16, 12)],
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, 17),
    ("Resize", [IMAGE], [None, None, _ints(2, 4, 16, 12)], {"mode": "cubic"}, 17),
    ("Einsum", [ROWS, _numbers(2, 5, 3)], [], {"equation": "bij,bik->bjk"}, 17),
    ("Cast", [ROWS], [], {"to": TensorProto.FLOAT}, 17),
    ("Cast", [ROWS * F(5)], [], {"to": TensorProto.INT64}, 17),
]  # fmt: skip
# Operators whose output is not a number, or whose input is a shape. The tests below cover them.
ELSEWHERE = {"Equal", "Greater", "Less", "And", "Or", "Where", "Shape", "ConstantOfShape"}


def _written(path, nodes, inputs, constants, outputs, opset=17):
    graph = helper.make_graph(
        nodes,
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    ir_version = 8 if opset < 19 else 9
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version), str(path)
    )
    return path


def _compare(path, inputs, atol=2e-6):
    with OnnxRuntime().reference(path) as reference:
        expected = reference.run(inputs)
    module = read_graph(path, torch.float32)
    found = module(*(torch.from_numpy(array.copy()) for array in inputs.values()))
    assert len(found) == len(expected)
    for tensor, (name, array) in zip(found, expected.items(), strict=True):
        assert tuple(tensor.shape) == array.shape, name
        np.testing.assert_allclose(tensor.numpy(), array, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)])
def test_an_operator_means_what_onnx_runtime_says(case, tmp_path):
    kind, data, constants, attributes, opset = case
    inputs = {f"x{number}": array for number, array in enumerate(data)}
    held = {f"c{number}": array for number, array in enumerate(constants) if array is not None}
    names = [*inputs, *(f"c{number}" if array is not None else "" for number, array in enumerate(constants))]
    outputs = ["y0", "y1"] if kind == "Split" else ["y0"]
    node = helper.make_node(kind, names, outputs, name="/it", **attributes)
    kinds = dict.fromkeys(outputs, attributes.get("to", TensorProto.FLOAT) if kind == "Cast" else TensorProto.FLOAT)
    _compare(_written(tmp_path / "m.onnx", [node], inputs, held, kinds, opset), inputs)


def test_every_operator_of_the_table_is_compared():
    assert {case[0] for case in CASES} | ELSEWHERE == set(OPERATORS)


def test_conditions(tmp_path):
    inputs = {"a": ROWS, "b": np.where(R.random(ROWS.shape) < 0.3, ROWS, -ROWS).astype(F)}
    nodes = [
        helper.make_node("Equal", ["a", "b"], ["e"]),
        helper.make_node("Greater", ["a", "b"], ["g"]),
        helper.make_node("Less", ["a", "half"], ["l"]),
        helper.make_node("Or", ["e", "g"], ["eg"]),
        helper.make_node("And", ["eg", "l"], ["c"]),
        helper.make_node("Where", ["c", "a", "half"], ["y"]),
    ]
    _compare(_written(tmp_path / "m.onnx", nodes, inputs, {"half": F(0.5)}, {"y": TensorProto.FLOAT}), inputs)


def test_shapes_are_computed_while_converting(tmp_path):
    """Exporters write `expand` and `view` like this: with Shape, arithmetic, ConstantOfShape, Equal and Where."""
    constants = {
        "first": _ints(0), "zero": np.array(0, np.int64), "two": _ints(2), "three": _ints(3), "minus": _ints(-1),
        "tall": _ints(3, 1), "sizes": _ints(-1, 5), "row": _numbers(1, 5), "axis": _ints(0), "end": _ints(1),
    }  # fmt: skip
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "first", "end", "axis"], ["n"]),
        helper.make_node("Gather", ["s", "zero"], ["n0"], axis=0),
        helper.make_node("Unsqueeze", ["n0", "axis"], ["n1"]),
        helper.make_node("Squeeze", ["n1", "axis"], ["n2"]),
        helper.make_node("Cast", ["n2"], ["n3"], to=TensorProto.INT64),
        helper.make_node("Mul", ["n3", "three"], ["m"]),
        helper.make_node("Div", ["m", "three"], ["d"]),
        helper.make_node("Concat", ["n", "minus", "two"], ["view"], axis=0),
        helper.make_node("Reshape", ["x", "view"], ["v"]),
        helper.make_node("ConstantOfShape", ["two"], ["ones"], value=numpy_helper.from_array(_ints(1), "v")),
        helper.make_node("Mul", ["ones", "minus"], ["negative"]),
        helper.make_node("Equal", ["sizes", "negative"], ["same"]),
        helper.make_node("Where", ["same", "ones", "sizes"], ["wide"]),
        helper.make_node("Expand", ["row", "wide"], ["r"]),
        helper.make_node("Concat", ["d", "minus"], ["flat"], axis=0),
        helper.make_node("Reshape", ["v", "flat"], ["w"]),
    ]
    inputs = {"x": ROWS}
    outputs = {"v": TensorProto.FLOAT, "r": TensorProto.FLOAT, "w": TensorProto.FLOAT}
    path = _written(tmp_path / "m.onnx", nodes, inputs, constants, outputs)
    # Some outputs do not depend on the input. Both ONNX Runtime and the table return them.
    _compare(path, inputs)


@pytest.mark.parametrize(
    ("kind", "names", "attributes", "why"),
    [
        ("Conv", ["x", "k"], {"auto_pad": "SAME_UPPER"}, "auto_pad = SAME_UPPER"),
        ("MaxPool", ["x"], {"kernel_shape": [2, 2], "ceil_mode": 1}, "ceil_mode = 1"),
        ("AveragePool", ["x"], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}, "uneven pads"),
        ("Resize", ["x", "", "s"], {"mode": "nearest"}, "mode = nearest"),
        ("Pad", ["x", "p"], {"mode": "edge"}, "mode = edge"),
        ("Reshape", ["x", "data"], {}, "its sizes depend on the data"),
        ("Gather", ["x", "data"], {"axis": 0}, "its indices depend on the data"),
        ("Slice", ["x", "a", "b", "c", "minus"], {}, "a step that is not positive"),
        ("Cast", ["x"], {"to": TensorProto.STRING}, "to type 8"),
    ],
)
def test_what_is_not_covered_is_refused_with_operator_and_node(tmp_path, kind, names, attributes, why):
    constants = {
        "k": _numbers(4, 4, 3, 3), "s": np.array([1, 1, 2, 2], F), "p": _ints(0, 0, 1, 1, 0, 0, 1, 1),
        "a": _ints(5), "b": _ints(0), "c": _ints(2), "minus": _ints(-1),
    }  # fmt: skip
    inputs = {"x": IMAGE, "data": _ints(2, 256)}
    node = helper.make_node(kind, names, ["y"], name="/head/it", **attributes)
    path = _written(tmp_path / "m.onnx", [node], inputs, constants, {"y": TensorProto.FLOAT})
    with pytest.raises(EngineBuildError, match=rf"operator {kind} \(node /head/it\): .*{why}"):
        read_graph(path, torch.float32)(torch.from_numpy(IMAGE.copy()), torch.tensor([2, 256]))


def test_all_unknown_operators_are_named_with_their_nodes(tmp_path):
    nodes = [
        *(helper.make_node("Det", ["x"], [f"d{n}"], name=f"/d{n}") for n in range(5)),
        helper.make_node("NonZero", ["x"], ["z"]),
        helper.make_node("Foo", ["x"], ["y"], name="/foo", domain="com.example"),
    ]
    path = _written(tmp_path / "m.onnx", nodes, {"x": ROWS}, {}, {"y": TensorProto.FLOAT})
    said = r"m\.onnx.*Det \(node /d0, /d1, /d2 and 2 more\); NonZero \(node z\); com\.example\.Foo \(node /foo\)"
    with pytest.raises(EngineBuildError, match=said):
        read_graph(path, torch.float16)


def test_sums_and_powers_leave_fp16(tmp_path):
    """In transformers, activations of some hundreds are common. Their squares exceed the range of 16-bit floats."""
    x = np.full((1, 4, 8), 500, F) * np.linspace(0.5, 1, 8, dtype=F)
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["p"]),
        helper.make_node("ReduceMean", ["p"], ["m"], axes=[2]),
        helper.make_node("Sqrt", ["m"], ["r"]),
        helper.make_node("Div", ["x", "r"], ["n"]),
        helper.make_node("ReduceL2", ["x"], ["l"], axes=[2]),
        helper.make_node("Clip", ["l", "least"], ["c"]),
        helper.make_node("Div", ["n", "c"], ["y"]),
    ]
    constants = {"two": F(2), "least": F(1e-12)}
    path = _written(tmp_path / "m.onnx", nodes, {"x": x}, constants, {"y": TensorProto.FLOAT})
    with OnnxRuntime().reference(path) as reference:
        expected = reference.run({"x": x})["y"]
    (found,) = read_graph(path, torch.float16)(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-3)
