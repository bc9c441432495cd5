"""Small ONNX models with seeded weights, and the runtimes on which each test runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from preflight.adapters.tensorrt.runtime import TENSORRT_RTX, TensorRtRuntime
from preflight.engine.runtimes import RUNTIMES
from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest, InferenceRuntime
from preflight.records import HostCapabilities
from preflight.wiring import runtime_choice

_SIDE, _DIM = 32, 24
# Those that run without a GPU. A new runtime is among them without being named here.
_HERE = [row.name for row in RUNTIMES if row.place != "gpu"]
# Extras without which these tests cannot run at all.
_INSTALLED = {"cpu"}


def _tiny_model(batch: int | str) -> onnx.ModelProto:
    random = np.random.default_rng(7)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.normal(size=shape) * 0.1).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "w3"], ["f"]),
        helper.make_node("ReduceL2", ["f"], ["g"], axes=[1], keepdims=1),
        helper.make_node("Div", ["f", "g"], ["descriptor"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, _SIDE, _SIDE])],
        [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, [batch, _DIM])],
        [weight("w1", 8, 3, 3, 3), weight("w2", 16, 8, 3, 3), weight("w3", 16 * 8 * 8, _DIM)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _runtime(name: str) -> InferenceRuntime:
    try:
        return runtime_choice(name, HostCapabilities("x86_64", "avx2")).make()
    except EngineBuildError as error:
        if set(RUNTIMES.named(name).extra.split(",")) <= _INSTALLED:
            raise
        pytest.skip(str(error))


@pytest.fixture(params=_HERE)
def runtime(request: pytest.FixtureRequest) -> InferenceRuntime:
    return _runtime(request.param)


@pytest.fixture(params=[*_HERE, "tensorrt_rtx"])
def compiler(request: pytest.FixtureRequest) -> InferenceRuntime:
    """A runtime that can compile on this machine. The TensorRT runtimes cannot run an engine without a GPU."""
    if request.param != "tensorrt_rtx":
        return _runtime(request.param)
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
    return TensorRtRuntime(TENSORRT_RTX)


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.onnx"
    onnx.save(_tiny_model("batch"), str(path))
    return path


@pytest.fixture(scope="session")
def fixed_batch_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "fixed.onnx"
    onnx.save(_tiny_model(1), str(path))
    return path


@pytest.fixture(scope="session")
def external_data_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "external.onnx"
    onnx.save(_tiny_model("batch"), str(path), save_as_external_data=True, location="weights.bin", size_threshold=1024)
    return path


@pytest.fixture
def request_for(request: pytest.FixtureRequest) -> Callable[..., CompileRequest]:
    """request_for(...): a request at the first precision of the runtime, which is fp32 or its only one."""
    under_test = next((name for name in ("runtime", "compiler") if name in request.fixturenames), None)
    precision = "fp32"
    if under_test is not None:
        precision = RUNTIMES.named(request.getfixturevalue(under_test).name).precisions[0]

    def make(onnx_path: Path, **changes: object) -> CompileRequest:
        values = {
            "inputs": {"image": (1, 3, _SIDE, _SIDE)},
            "precision": precision,
            "workspace_mb": 64,
            "batch_size": 8,
        }
        return CompileRequest(onnx_path=onnx_path, **(values | changes))

    return make


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).uniform(0, 255, size=(8, 3, _SIDE, _SIDE)).astype(np.float32)
