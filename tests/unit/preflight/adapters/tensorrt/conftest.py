"""A CUDA driver that uses host memory, a fake TensorRT that computes at its addresses, and small ONNX models."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from preflight.adapters.tensorrt.runtime import TENSORRT_RTX, TensorRtLibrary, TensorRtRuntime
from preflight.ports import CompileRequest

HERE = Path(__file__).parent


def compiled(source: Path, target: Path, *options: str) -> Path:
    """Compile a C file into a shared library. Skips the test if there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make a stand-in for a native library")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(source), *options], check=True)
    return target


@pytest.fixture(scope="session")
def compile_library() -> Callable[..., Path]:
    return compiled


class FakeCuda:
    """The fake driver. Its C variables can be read and set as attributes."""

    def __init__(self, path):
        object.__setattr__(self, "path", str(path))
        object.__setattr__(self, "_library", ctypes.CDLL(str(path)))

    def _variable(self, name):
        kind = ctypes.c_size_t if name == "free" else ctypes.c_int
        return kind.in_dll(self._library, f"fake_{name}")

    def __getattr__(self, name):
        return self._variable(name).value

    def __setattr__(self, name, value):
        self._variable(name).value = value

    @property
    def held(self):
        return self.contexts, self.streams, self.buffers


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory):
    return compiled(HERE / "fake_cuda.c", tmp_path_factory.mktemp("driver") / "libfakecuda.so")


@pytest.fixture
def cuda(fake_driver, tmp_path):
    # A copy of its own: a library that is loaded once more from one path keeps the variables of the test before.
    driver = FakeCuda(shutil.copy(fake_driver, tmp_path / "libfakecuda.so"))
    yield driver
    assert driver.held == (0, 0, 0), "contexts, streams or buffers were not given back"


class _Type(Enum):
    FLOAT = "float32"
    HALF = "float16"
    BF16 = "bf16"
    INT64 = "int64"
    FP8 = "fp8"


class _Place(Enum):
    DEVICE = 0
    HOST = 1


class _Mode(Enum):
    INPUT = 0
    OUTPUT = 1


class _Severity(Enum):
    ERROR = 0
    WARNING = 1
    VERBOSE = 2


class _Base:
    pass


class _Runtime:
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        self._logger.log(_Severity.VERBOSE, "not kept")
        try:
            return _Engine(json.loads(plan), self._logger)
        except ValueError:
            self._logger.log(_Severity.ERROR, "Error Code 6: expecting compute 8.9 got compute 8.6")
            return None


class _Engine:
    """A plan: {name, context, inputs: {name: [type, shape, most]}, outputs: {name: [type, length, place]}, scratch}."""

    def __init__(self, plan, logger):
        self.plan, self.logger, self.name = plan, logger, plan["name"]
        self._names = [*plan["inputs"], *plan["outputs"]]
        self.num_io_tensors = len(self._names)

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_dtype(self, name):
        return _Type[(self.plan["inputs"].get(name) or self.plan["outputs"][name])[0]]

    def get_tensor_location(self, name):
        return _Place[self.plan["outputs"].get(name, ["", 0, "DEVICE"])[2]]

    def get_tensor_mode(self, name):
        return _Mode.INPUT if name in self.plan["inputs"] else _Mode.OUTPUT

    def get_tensor_shape(self, name):
        return self.plan["inputs"][name][1]

    def get_tensor_profile_shape(self, name, index):
        assert index == 0
        most = self.plan["inputs"][name][2]
        return [[1, *most[1:]], most, most]

    def create_execution_context(self, strategy):
        assert strategy == "user managed"
        if self.plan.get("no context"):
            self.logger.log(_Severity.ERROR, "Error Code 2: OutOfMemory")
            return None
        return _Context(self)


class _Context:
    """output[i] = (mean, sum, mean, ...) of sample i of the first input.

    A NaN in the input makes the execution fail.
    """

    def __init__(self, engine):
        self._engine, self._shapes, self._addresses, self._scratch = engine, {}, {}, (0, 0)

    def set_input_shape(self, name, shape):
        fixed, most = self._engine.plan["inputs"][name][1:]
        fits = len(shape) == len(most) and all(
            size <= top if at == -1 else size == at for size, at, top in zip(shape, fixed, most, strict=True)
        )
        if fits:
            self._shapes[name] = shape
        else:
            self._engine.logger.log(_Severity.ERROR, "Error Code 3: not in the profile's range")
        return fits

    def get_tensor_shape(self, name):
        batch = next(iter(self._shapes.values()))[0]
        return [batch, self._engine.plan["outputs"][name][1]]

    def update_device_memory_size_for_shapes(self):
        return self._engine.plan.get("scratch", 0) * next(iter(self._shapes.values()))[0]

    def set_device_memory(self, address, size):
        self._scratch = address, size

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return address % 256 == 0

    def execute_async_v3(self, stream):
        assert stream != 0
        ctypes.memset(self._scratch[0], 1, self._scratch[1])
        name = next(iter(self._engine.plan["inputs"]))
        shape = self._shapes[name]
        kind = np.dtype(self._engine.get_tensor_dtype(name).value)
        data = ctypes.string_at(self._addresses[name], int(np.prod(shape)) * kind.itemsize)
        samples = np.frombuffer(data, kind).reshape(shape[0], -1).astype(np.float64)
        if np.isnan(samples).any():
            self._engine.logger.log(_Severity.ERROR, "Error Code 1: kernel failed")
            return False
        if np.isinf(samples).any():
            self._engine.logger.log(_Severity.WARNING, "Skipping tactic 0x1: insufficient memory, out of memory")
            self._engine.logger.log(_Severity.ERROR, "Error Code 2: OutOfMemory (Requested size was 1 bytes.)")
            return False
        for output, (kind, length, _) in self._engine.plan["outputs"].items():
            values = np.stack([samples.mean(1), samples.sum(1)] * length, 1)[:, :length].astype(np.float32)
            content = (
                (values.view(np.uint32) >> 16).astype(np.uint16) if kind == "BF16" else values.astype(_Type[kind].value)
            ).tobytes()
            ctypes.memmove(self._addresses[output], content, len(content))
        return True


@pytest.fixture
def fake_library(monkeypatch):
    """A TensorRT written in Python, which reads its engines from JSON."""
    module = types.ModuleType("fake_tensorrt")
    module.__version__ = "10.3.0.post1"
    module.ILogger = module.IErrorRecorder = _Base
    module.Runtime = _Runtime
    module.TensorLocation, module.TensorIOMode = _Place, _Mode
    module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    module.init_libnvinfer_plugins = lambda logger, namespace: True
    monkeypatch.setitem(sys.modules, "fake_tensorrt", module)
    # Each library gets another title, because the process keeps one logger for each library.
    return TensorRtLibrary("fake_tensorrt", f"TensorRT {id(module)}", builds_without_device=False, keeps_timings=True)


def _weight(name, *shape):
    random = np.random.default_rng(7)
    return numpy_helper.from_array((random.normal(size=shape) * 0.1).astype(np.float32), name)


def _saved(path, nodes, inputs, outputs, weights=(), domains=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
        list(weights),
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The paths by name: fp32, fixed (batch size 2), fp16, int8, two_inputs, unsupported."""
    root = tmp_path_factory.mktemp("onnx")
    conv = helper.make_node("Conv", ["image", "w"], ["a"], pads=[1, 1, 1, 1])
    relu = helper.make_node("Relu", ["a"], ["y"])
    image = ("image", TensorProto.FLOAT, ["batch", 3, 8, 8])
    found = {
        "fp32": _saved(
            root / "fp32.onnx", [conv, relu], [image], [("y", 1, ["batch", 4, 8, 8])], [_weight("w", 4, 3, 3, 3)]
        ),
        "fixed": _saved(
            root / "fixed.onnx",
            [conv, relu],
            [("image", 1, [2, 3, 8, 8])],
            [("y", 1, [2, 4, 8, 8])],
            [_weight("w", 4, 3, 3, 3)],
        ),
    }
    half = numpy_helper.from_array(numpy_helper.to_array(_weight("w", 4, 3, 3, 3)).astype(np.float16), "w")
    found["fp16"] = _saved(
        root / "fp16.onnx",
        [
            helper.make_node("Cast", ["image"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("Conv", ["h", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
        ],
        [image],
        [("y", 1, ["batch", 4, 8, 8])],
        [half],
    )
    scales = [
        numpy_helper.from_array(np.float32(0.05), "s"),
        numpy_helper.from_array(np.int8(0), "z"),
        numpy_helper.from_array(np.full(4, 0.01, np.float32), "ws"),
        numpy_helper.from_array(np.zeros(4, np.int8), "wz"),
    ]
    found["int8"] = _saved(
        root / "int8.onnx",
        [
            helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=0),
            helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
            helper.make_node("Conv", ["d", "wd"], ["y"], pads=[1, 1, 1, 1]),
        ],
        [image],
        [("y", 1, ["batch", 4, 8, 8])],
        [_weight("w", 4, 3, 3, 3), *scales],
    )
    found["two_inputs"] = _saved(
        root / "two.onnx",
        [
            helper.make_node("Transpose", ["right"], ["t"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["left", "t"], ["m"]),
            helper.make_node("Softmax", ["m"], ["scores"], axis=2),
        ],
        [("left", 1, ["batch", "n", 16]), ("right", 1, ["batch", "k", 16])],
        [("scores", 1, ["batch", "n", "k"])],
    )
    found["unsupported"] = _saved(
        root / "unsupported.onnx",
        [
            helper.make_node("Relu", ["image"], ["a"], name="first"),
            helper.make_node("Frobnicate", ["a"], ["b"], name="strange", domain="com.acme"),
            helper.make_node("Det", ["b"], ["y"], name="determinant"),
        ],
        [image],
        [("y", 1, ["batch", 3])],
        domains=["com.acme"],
    )
    return found


@pytest.fixture
def rtx() -> TensorRtRuntime:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
    return TensorRtRuntime(TENSORRT_RTX)


@pytest.fixture
def request_for() -> Callable[..., CompileRequest]:
    def make(path: Path, **changes: object) -> CompileRequest:
        values = {"inputs": {"image": (1, 3, 8, 8)}, "precision": "fp32", "workspace_mb": 64, "batch_size": 4}
        return CompileRequest(onnx_path=path, **(values | changes))

    return make
