"""The inference runtime (C7) with ONNX Runtime, on a CPU or with CUDA, and the fp32 reference of the parity gate.

An engine is the optimised graph as an `.onnx` file. Its bytes are reproducible; those of the `.ort` format are not. The
optimisation stops at the extended level. The later steps depend on the CPU's cache layout, so they run when it is
loaded.

If CUDA does not start, ONNX Runtime continues on the CPU and reports this only in its log. So the providers of a
session are read back and compared. After a failed run, ONNX Runtime would try again on the CPU; this is switched off.

ONNX Runtime also reports to a server on the network, on Linux too, from the moment it is imported. It keeps unsent
reports in the user's cache folder. An environment variable prevents this, which `_library` sets.
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
# TF32 is on by default. It would round fp32 products to ten bits of mantissa. By default, ONNX Runtime also measures
# the convolution algorithms and takes the fastest, so the bits would depend on the machine's load.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
_FATAL_ONLY = 4  # every error is also raised, so standard error would show it twice
_OUT_OF_MEMORY = re.compile(r"[Ff]ailed to allocate memory|bad_alloc|[Oo]ut of memory", re.ASCII)
# ONNX Runtime's name of a tensor type -> numpy's name. A graph may have inputs of these types.
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
    """The `InferenceRuntime` of ONNX Runtime: fp32, and int8 for files with Q/DQ nodes.

    threads: the number of threads of an engine. They wait without spinning, because spinning threads become very slow
    on shared cores. cuda: run on CUDA's device 0, without a fallback. Only the arithmetic of shapes stays on the CPU.
    """

    def __init__(self, threads: int = 1, *, cuda: bool = False) -> None:
        self._threads = threads
        self._cuda = cuda

    @property
    def name(self) -> str:
        """The name in mission files."""
        return "onnxruntime"

    @property
    def version(self) -> str:
        """ONNX Runtime's release, such as 1.23.2."""
        found = re.match(r"[0-9]+(?:\.[0-9]+)*", _library().__version__)
        if found is None:
            raise EngineBuildError(
                f"ONNX Runtime's version {_library().__version__!r} does not begin with a number. Install a release."
            )
        return found.group()

    def compile(self, request: CompileRequest, target: Path) -> None:
        """Optimise an ONNX file in its own process and write the graph to `target`.

        The same file and version give the same bytes.

        Raises:
            EngineBuildError: the precision is not supported, ONNX Runtime cannot load the graph, its inputs are not
                those of the request, its weights are in separate files, or `target` cannot be written.
        """
        self.start(request, target, slot=0).wait()

    def start(self, request: CompileRequest, target: Path, *, slot: int) -> Compilation:
        """Start a compilation, as `ports.ConcurrentRuntime` describes.

        Each slot has its own core if there are enough.
        """
        _require_precision(request)
        return CompilingProcess(
            __name__,
            {**request_value(request), "cuda": self._cuda},
            target,
            failure=f"ONNX Runtime cannot compile {request.onnx_path} for {request.precision}",
            slot=slot,
        )

    def optimise(self, request: CompileRequest, target: Path) -> None:
        """Do the work that `start` ordered, in this process. Raises EngineBuildError."""
        _require_quantised(request)
        options = self._options("ORT_ENABLE_EXTENDED")
        options.optimized_model_filepath = str(target)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        _session(request.onnx_path, options, str(request.onnx_path), "compile", cuda=self._cuda)
        self._prove_whole(target, request)

    def load(self, engine: Path, request: CompileRequest) -> Engine:
        """Load an optimised graph.

        Raises:
            EngineBuildError: the precision is not supported, the file is absent or damaged, or its inputs are not those
                of the request.
        """
        _require_precision(request)
        if not engine.is_file():
            raise EngineBuildError(f"The engine {engine} does not exist. Build it again.")
        # Load it by its path. Otherwise its bytes would be in memory twice.
        return self._opened(engine, self._options("ORT_ENABLE_ALL"), engine, request)

    def _prove_whole(self, engine: Path, request: CompileRequest) -> None:
        """Load the engine from its bytes alone.

        The optimised graph could still refer to weights in files beside the original.
        """
        try:
            content = engine.read_bytes()
        except OSError as error:
            raise EngineBuildError(f"The engine {engine} cannot be read: {error}. Build it again.") from error
        options = self._options("ORT_ENABLE_ALL")
        # A path that cannot be a folder: an engine must not need other files.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(engine.resolve()))
        self._opened(content, options, engine, request).close()

    def _opened(self, source: Path | bytes, options: Any, engine: Path, request: CompileRequest) -> _OnnxRuntimeEngine:  # noqa: ANN401 - no types
        opened = _OnnxRuntimeEngine(_session(source, options, str(engine), "load", cuda=self._cuda), engine.name)
        _compare_inputs(opened, request)
        return opened

    def reference(self, onnx_path: Path) -> Engine:
        """Load the fp32 ONNX file on the CPU, without fusions. Every engine is compared with it.

        Raises:
            EngineBuildError: the file cannot be loaded.
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
    """An engine with one session."""

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
        """The names of the graph's inputs, sorted."""
        return sorted(self._dtypes)

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Run one forward pass. The returned arrays belong to the caller.

        Raises:
            OutOfDeviceMemory: the batch did not fit into memory.
            EngineBuildError: the engine is closed, an input has another name, type or shape, or ONNX Runtime failed.
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
    """Return the module `onnxruntime`, imported without its telemetry."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # the library reads it once, when it is loaded
    import onnxruntime  # noqa: PLC0415 - only after the line above

    # If other code imported the library first, this stops the recording.
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _failures() -> tuple[type[Exception], ...]:
    """Return ONNX Runtime's exception classes.

    They have no common base class, and are not subclasses of RuntimeError.
    """
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
            f"ONNX Runtime {library.__version__} cannot {verb} {label} for CUDA: this build has only "
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
    """Check that a session runs on the requested providers. Raises EngineBuildError.

    found: the providers of the session. label: the model or engine in the message. cuda: whether CUDA was requested.
    """
    asked = [_CUDA, _CPU] if cuda else [_CPU]
    if found != asked:
        raise EngineBuildError(
            f"{label}: ONNX Runtime was asked for {', '.join(asked)} but runs on {', '.join(found)}. Check the driver with "
            "nvidia-smi, and that the CUDA and cuDNN libraries its version needs are installed; or set `device` to cpu."
        )


def _compare_inputs(engine: _OnnxRuntimeEngine, request: CompileRequest) -> None:
    if engine.input_names != sorted(request.inputs):
        raise EngineBuildError(
            f"{request.onnx_path} has the inputs {engine.input_names}, but the request has {sorted(request.inputs)}. Correct "
            "the mission."
        )


def _require_precision(request: CompileRequest) -> None:
    if request.precision not in {"fp32", "int8"}:
        raise EngineBuildError(
            f"{request.onnx_path}: ONNX Runtime builds fp32 and int8 engines, not {request.precision}. Set `precision` "
            "to fp32, or choose the runtime openvino for bf16."
        )


def _require_quantised(request: CompileRequest) -> None:
    """Check that an int8 file has Q/DQ nodes; without them it would compute in fp32.

    Operator names are text in the file.
    """
    if request.precision == "int8" and not _holds(request.onnx_path, b"DequantizeLinear"):
        raise EngineBuildError(
            f"{request.onnx_path}: int8 is requested, but the file has no Q/DQ nodes. Quantise it, or set `precision` to fp32."
        )


def _holds(path: Path, word: bytes) -> bool:
    """Return whether a file contains these bytes. It is not read into memory."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(word) >= 0
    except ValueError:  # an empty file cannot be mapped
        return False
    except OSError as error:
        raise EngineBuildError(f"The model {path} cannot be read: {error.strerror}.") from error


def compile_here(order: Mapping[str, Any], target: Path) -> None:
    """Do the work that `OnnxRuntime.start` ordered, in the process that was started for it. Raises EngineBuildError."""
    OnnxRuntime(cuda=order["cuda"]).optimise(request_of(order), target)
