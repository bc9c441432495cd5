"""C7 by ONNX Runtime: the fp32 reference of the parity gate, and a runtime of its own, on a CPU or by CUDA.

The artifact is the optimised graph as an `.onnx` file: the same bytes each time, which its `.ort` form is not.
Optimisation stops at the extended level: what comes after depends on the CPU's cache layout and is done at load.

ONNX Runtime goes on with the CPU where CUDA does not start, and says so only in its log. What a session runs on is therefore
read back and compared, and its own second attempt on the CPU after a failed run is switched off.

On Linux too ONNX Runtime reports to a server on the network and keeps what it could not send in the user's cache
folder, from the moment it is imported, unless the environment says no; `_library` says it.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight.engine.compile_process import CompilingProcess, request_of, request_value
from preflight.engine.static_batch import run_in_slices
from preflight.errors import EngineBuildError
from preflight.ports import Compilation, CompileRequest, Engine, OutOfDeviceMemory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["OnnxRuntime", "compare_providers"]

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
# TF32 is on by default: fp32 products would be rounded to ten bits of mantissa, which nobody asked for. The default search
# measures convolutions and takes the quickest, whose bits then follow the machine's load.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
_FATAL_ONLY = 4  # every error is raised as well; standard error would show it a second time
_OUT_OF_MEMORY = re.compile(r"[Ff]ailed to allocate memory|bad_alloc|[Oo]ut of memory", re.ASCII)
# Numpy types of the tensors a graph may take, by ONNX Runtime's name for them.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OnnxRuntime:
    """The `InferenceRuntime` of ONNX Runtime: fp32, and int8 of a file that holds Q/DQ nodes.

    threads: how many one engine uses. They wait without spinning: spinning threads collapse where cores are shared. cuda: run
    on CUDA's device 0 or not at all; only the arithmetic of shapes stays on the CPU there.
    """

    def __init__(self, threads: int = 1, *, cuda: bool = False) -> None:
        self._threads = threads
        self._cuda = cuda

    @property
    def name(self) -> str:
        """As in the mission."""
        return "onnxruntime"

    @property
    def version(self) -> str:
        """ONNX Runtime's release, such as 1.23.2."""
        found = re.match(r"[0-9]+(?:\.[0-9]+)*", _library().__version__)
        if found is None:
            raise EngineBuildError(f"ONNX Runtime calls its version {_library().__version__!r}: no number.")
        return found.group()

    def compile(self, request: CompileRequest, target: Path) -> None:
        """Write the optimised graph to `target`, made in a process of its own; the same bytes for the same file and version.

        Raises:
            EngineBuildError: another precision, a graph ONNX Runtime cannot take, inputs that are not those
                of the request, weights in files beside the graph, or a `target` that cannot be written.
        """
        self.start(request, target, slot=0).wait()

    def start(self, request: CompileRequest, target: Path, *, slot: int) -> Compilation:
        """As `ports.ConcurrentRuntime`; each slot has a core of its own, as far as there are."""
        _require_precision(request)
        return CompilingProcess(
            __name__,
            {**request_value(request), "cuda": self._cuda},
            target,
            failure=f"ONNX Runtime cannot compile {request.onnx_path} for {request.precision}",
            slot=slot,
        )

    def optimise(self, request: CompileRequest, target: Path) -> None:
        """What `start` orders, in this process. Raises EngineBuildError."""
        _require_quantised(request)
        options = self._options("ORT_ENABLE_EXTENDED")
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        _session(request.onnx_path, options, str(request.onnx_path), "compile", cuda=self._cuda)
        self._prove_whole(target, request)

    def load(self, engine: Path, request: CompileRequest) -> Engine:
        """Open an optimised graph.

        Raises:
            EngineBuildError: another precision, an absent or damaged file, other inputs than asked.
        """
        _require_precision(request)
        if not engine.is_file():
            raise EngineBuildError(f"The engine {engine} is not there. Build it again.")
        # By its path: its bytes would be in memory a second time.
        return self._opened(engine, self._options("ORT_ENABLE_ALL"), engine, request)

    def _prove_whole(self, engine: Path, request: CompileRequest) -> None:
        """Open it from its bytes alone: the optimised graph would still point at weights left beside the original."""
        try:
            content = engine.read_bytes()
        except OSError as error:
            raise EngineBuildError(f"The engine {engine} cannot be read: {error}. Build it again.") from error
        options = self._options("ORT_ENABLE_ALL")
        # A place that can hold nothing: an engine is one file, and may need no other.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(engine.resolve()))
        self._opened(content, options, engine, request).close()

    def _opened(self, source: Path | bytes, options: Any, engine: Path, request: CompileRequest) -> _OnnxRuntimeEngine:  # noqa: ANN401 - no types
        opened = _OnnxRuntimeEngine(_session(source, options, str(engine), "load", cuda=self._cuda), engine.name)
        _compare_inputs(opened, request)
        return opened

    def reference(self, onnx_path: Path) -> Engine:
        """The fp32 ONNX file itself on the CPU, without fusions: what every engine is compared with.

        Raises:
            EngineBuildError: the file does not load.
        """
        session = _session(onnx_path, self._options("ORT_ENABLE_BASIC"), str(onnx_path), "load")
        return _OnnxRuntimeEngine(session, onnx_path.name)

    def _options(self, level: str) -> Any:  # noqa: ANN401 - ONNX Runtime ships no types
        library = _library()
        options = library.SessionOptions()
        options.graph_optimization_level = getattr(library.GraphOptimizationLevel, level)
        options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = _FATAL_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.add_session_config_entry("session.load_model_format", "ONNX")
        return options


class _OnnxRuntimeEngine:
    """One session."""

    def __init__(self, session: Any, label: str) -> None:  # noqa: ANN401 - ONNX Runtime ships no types
        self._session = session
        self._label = label
        self._outputs = [node.name for node in session.get_outputs()]
        self._dtypes = {node.name: _DTYPES.get(node.type, node.type) for node in session.get_inputs()}
        batches = [node.shape[0] for node in session.get_inputs() if node.shape]
        fixed = {batch for batch in batches if isinstance(batch, int)}
        self._slice = fixed.pop() if len(fixed) == 1 and all(isinstance(batch, int) for batch in batches) else None

    @property
    def input_names(self) -> list[str]:
        """Names of the graph's inputs."""
        return sorted(self._dtypes)

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """One forward pass; the arrays returned belong to the caller.

        Raises:
            OutOfDeviceMemory: the batch did not fit.
            EngineBuildError: closed, inputs of another name, type or shape, or a failure inside ONNX Runtime.
        """
        if self._session is None:
            raise EngineBuildError(f"The engine {self._label} is closed.")
        found = {name: str(array.dtype) for name, array in inputs.items()}
        if found != self._dtypes:
            raise EngineBuildError(f"The engine {self._label} takes {self._dtypes}, but was given {found}.")
        return self._infer(inputs) if self._slice is None else run_in_slices(self._infer, inputs, self._slice)

    def close(self) -> None:
        """Release the engine's memory. Idempotent."""
        self._session = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _infer(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        options = _library().RunOptions()
        options.log_severity_level = _FATAL_ONLY
        try:
            results = self._session.run(self._outputs, dict(inputs), options)
        except MemoryError as error:
            raise OutOfDeviceMemory(str(error)) from error
        except _failures() as error:
            if _OUT_OF_MEMORY.search(str(error)):
                raise OutOfDeviceMemory(str(error)) from error
            raise EngineBuildError(f"The engine {self._label} failed: {error}") from error
        return {name: array.astype("float32", copy=False) for name, array in zip(self._outputs, results, strict=True)}


def _library() -> Any:  # noqa: ANN401 - ONNX Runtime ships no types
    """ONNX Runtime, imported without its reporter."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the library is loaded
    import onnxruntime  # noqa: PLC0415 - only after the line above

    # For a process in which somebody else imported it first: nothing more is recorded.
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _failures() -> tuple[type[Exception], ...]:
    """ONNX Runtime's own exceptions share no base, and are no RuntimeError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415 - only after `_library`

    names = (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "ModelLoaded",
        "NoModel", "NoSuchFile", "NotImplemented", "RuntimeException",
    )  # fmt: skip
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError)


def _session(model: Path | bytes, options: Any, label: str, verb: str, *, cuda: bool = False) -> Any:  # noqa: ANN401 - no types
    library = _library()
    offered = library.get_available_providers()
    if cuda and _CUDA not in offered:
        raise EngineBuildError(
            f"ONNX Runtime {library.__version__} cannot {verb} {label} for CUDA: this build of it has only "
            f"{', '.join(offered)}. Remove the package onnxruntime and run pip install -e '.[gpu]', or set `device` to cpu."
        )
    source = str(model) if isinstance(model, Path) else model
    failures: tuple[type[Exception], ...] = (*_failures(), OSError, MemoryError)
    try:
        session = library.InferenceSession(
            source, options, providers=[(_CUDA, _CUDA_OPTIONS), _CPU] if cuda else [_CPU]
        )
    except failures as error:
        hint = ""
        if "xternal data" in str(error):
            hint = " An engine is one file: write the weights into the ONNX file (onnx.save without external data)."
        raise EngineBuildError(f"ONNX Runtime cannot {verb} {label}: {str(error).strip()}{hint}") from error
    compare_providers(session.get_providers(), label, cuda=cuda)
    session.disable_fallback()
    return session


def compare_providers(found: list[str], label: str, *, cuda: bool) -> None:
    """Compare what a session runs on with what was asked. Raises EngineBuildError."""
    asked = [_CUDA, _CPU] if cuda else [_CPU]
    if found != asked:
        raise EngineBuildError(
            f"{label}: ONNX Runtime was asked for {', '.join(asked)} but runs on {', '.join(found)}. Check the driver with "
            "nvidia-smi, and that the CUDA and cuDNN libraries its version needs are installed; or set `device` to cpu."
        )


def _compare_inputs(engine: _OnnxRuntimeEngine, request: CompileRequest) -> None:
    if engine.input_names != sorted(request.inputs):
        raise EngineBuildError(
            f"{request.onnx_path} takes the inputs {engine.input_names}, but {sorted(request.inputs)} were asked for."
        )


def _require_precision(request: CompileRequest) -> None:
    if request.precision not in {"fp32", "int8"}:
        raise EngineBuildError(
            f"{request.onnx_path}: ONNX Runtime builds fp32 and int8 engines here, not {request.precision}. Set `precision` "
            "to fp32, or choose the runtime openvino for bf16."
        )


def _require_quantised(request: CompileRequest) -> None:
    """An unquantised file would compile, and compute in fp32. The operator's name stands in the file as it is."""
    if request.precision == "int8" and not _holds(request.onnx_path, b"DequantizeLinear"):
        raise EngineBuildError(
            f"{request.onnx_path}: int8 was asked for, but it holds no Q/DQ nodes. Quantise it, or set `precision` to fp32."
        )


def _holds(path: Path, word: bytes) -> bool:
    """Whether a file has these bytes somewhere; it is not read into memory."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(word) >= 0
    except ValueError:  # an empty file cannot be mapped
        return False
    except OSError as error:
        raise EngineBuildError(f"The model {path} cannot be read: {error.strerror}.") from error


def compile_here(order: Mapping[str, Any], target: Path) -> None:
    """What `OnnxRuntime.start` orders, in the process made for it. Raises EngineBuildError."""
    OnnxRuntime(cuda=order["cuda"]).optimise(request_of(order), target)
