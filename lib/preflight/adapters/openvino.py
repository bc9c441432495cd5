"""C7 on a CPU by OpenVINO: an ONNX file becomes a compiled blob, and a blob an engine.

A blob does not carry its precision: without a hint, a CPU with bf16 runs a blob compiled for fp32 in bf16. The hint is
therefore set when compiling and again when importing, read back both times, and compared.

One blob is imported in two ways, and gives the same bits in both: for one batch at a time, every core on it; and, once the
first batch is submitted, for throughput: several batches at a time, each on some of the cores.

Compiling happens in a process of its own. OpenVINO names the nodes it makes by a counter that runs for the whole
process, and the names are in the blob: only the first model a process reads gives reproducible bytes.

OpenVINO's Python package reports each import to a server on the network. The package that does so is optional;
`_library` declares it absent before the first import.
"""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight.adapters._compiling import CompilingProcess, request_of, request_value, write_engine
from preflight.adapters._signal_stack import kept_signal_stack
from preflight.errors import EngineBuildError
from preflight.ports import Compilation, CompileRequest, Engine, OutOfDeviceMemory
from preflight.static_batch import run_in_slices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["OpenVinoRuntime"]

# The hint of a precision, and the capability a CPU must list for it.
_HINTS = {
    "fp32": ("f32", "FP32"),
    "bf16": ("bf16", "BF16"),
    "fp16": ("f16", "FP16"),
    "int8": ("f32", "INT8"),  # int8 is in the file, as Q/DQ nodes; this is for the rest
}
# Everything that would otherwise follow the machine or its load, and so change the bytes of a blob.
_FIXED = {
    "PERFORMANCE_HINT": "LATENCY",
    "EXECUTION_MODE_HINT": "PERFORMANCE",
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
}
_EXPORT_THREADS = 1
# Batches at a time: each holds the activations of a whole batch, and more than a few win nothing where a batch is large.
_STREAMS = 4
_OUT_OF_MEMORY = re.compile(r"bad_alloc|[Cc]annot allocate memory|[Oo]ut of memory|[Ff]ailed to allocate", re.ASCII)


class OpenVinoRuntime:
    """The `InferenceRuntime` of OpenVINO's CPU plug-in: fp32; bf16 and fp16 where the CPU has them; int8 of Q/DQ files.

    threads: how many one engine uses; 0 leaves it to OpenVINO, which takes every core this process may use. It does not
    change the bytes of a blob.
    """

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads
        self._core: Any = None

    @property
    def name(self) -> str:
        """As in the mission."""
        return "openvino"

    @property
    def version(self) -> str:
        """OpenVINO's release, such as 2026.4.1, without build number and commit."""
        return _release(_library().__version__)

    def compile(self, request: CompileRequest, target: Path) -> None:
        """Write the compiled blob of an ONNX file to `target`; the same bytes for the same file, version and CPU.

        Raises:
            EngineBuildError: this CPU lacks the precision, OpenVINO cannot compile the graph, its inputs are not
                those of the request, or `target` cannot be written.
        """
        self.start(request, target, slot=0).wait()

    def start(self, request: CompileRequest, target: Path, *, slot: int) -> Compilation:
        """As `ports.ConcurrentRuntime`; each slot has a core of its own, as far as there are."""
        with kept_signal_stack():
            _hint(self._opened(), request)
        return CompilingProcess(__name__, request_value(request), target, failure=_failure(request), slot=slot)

    def load(self, engine: Path, request: CompileRequest) -> Engine:
        """Import a blob at the request's precision.

        Raises:
            EngineBuildError: the file is absent or damaged, was built by another OpenVINO or for another CPU, or runs
                at another precision than asked.
        """
        core = self._opened()
        with kept_signal_stack():
            hint = _hint(core, request)
        properties: dict[str, Any] = {**_FIXED, "INFERENCE_PRECISION_HINT": hint}
        if self._threads:
            properties["INFERENCE_NUM_THREADS"] = self._threads
        streams = min(_STREAMS, self._threads or len(os.sched_getaffinity(0)))
        modes: dict[bool, dict[str, Any]] = {
            False: {},
            True: {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams},
        }

        def opened(queued: bool) -> Any:  # noqa: ANN401 - OpenVINO ships no types
            with kept_signal_stack():
                compiled = core.import_model(engine.read_bytes(), "CPU", {**properties, **modes[queued]})
                _compare_precision(compiled, hint, str(engine))
                _compare_inputs([port.get_any_name() for port in compiled.inputs], request.inputs, str(engine))
            return compiled

        try:
            return _OpenVinoEngine(opened, streams, engine.name)
        except (OSError, RuntimeError, MemoryError) as error:
            raise EngineBuildError(
                f"OpenVINO {self.version} cannot load the engine {engine}: {_reason(error)} Remove the file and build "
                "it again on this machine."
            ) from error

    def _opened(self) -> Any:  # noqa: ANN401 - OpenVINO ships no types
        if self._core is None:
            self._core = _library().Core()
        return self._core


class _OpenVinoEngine:
    """One blob, imported for one batch at a time or for several: never both, since each has the weights in memory."""

    def __init__(self, opened: Callable[[bool], Any], streams: int, label: str) -> None:
        """opened: imports the blob; told whether for several batches at a time."""
        self._opened, self._streams, self._label = opened, streams, label
        compiled = opened(False)
        self._idle: list[Any] = [compiled.create_infer_request()]
        self._under_way: deque[Any] = deque()
        self._queued: bool | None = False
        self._closed = False
        self._dtypes = {port.get_any_name(): port.get_element_type().to_dtype() for port in compiled.inputs}
        self._outputs = [port.get_any_name() for port in compiled.outputs]
        batches = [
            port.get_partial_shape()[0] for port in compiled.inputs if port.get_partial_shape().rank.get_length()
        ]
        fixed = {batch.get_length() for batch in batches if not batch.is_dynamic}
        self._slice = fixed.pop() if len(fixed) == 1 and all(not batch.is_dynamic for batch in batches) else None

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """One forward pass; the arrays given are read in place, those returned belong to the caller.

        Raises:
            OutOfDeviceMemory: the batch did not fit.
            EngineBuildError: closed, inputs of another name, type or shape, or a failure inside OpenVINO.
        """
        self._check(inputs)
        self._enter(queued=False)
        return self._infer(inputs) if self._slice is None else run_in_slices(self._infer, inputs, self._slice)

    @property
    def depth(self) -> int:
        """One batch more than are computed at a time, so that the next is there when one is done.

        1 for a graph that fixes its batch size: its slices are run one after the other.
        """
        return self._streams + 1 if self._slice is None and self._streams > 1 else 1

    def submit(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        """As `ports.QueueingEngine`; the arrays given are read in place."""
        self._check(inputs)
        self._enter(queued=True)
        if not self._idle:
            raise EngineBuildError(f"The engine {self._label} has {self.depth} batches under way; collect one first.")
        with self._translated():
            self._idle[-1].start_async(dict(inputs), share_inputs=True)
        self._under_way.append(self._idle.pop())

    def collect(self) -> dict[str, NDArray[np.float32]]:
        """As `ports.QueueingEngine`."""
        if not self._under_way:
            raise EngineBuildError(f"The engine {self._label} has no batch under way.")
        self._idle.append(self._under_way.popleft())
        return self._results(self._idle[-1])

    def discard(self) -> None:
        """As `ports.QueueingEngine`."""
        while self._under_way:
            try:
                self.collect()
            except (EngineBuildError, OutOfDeviceMemory):  # of a batch nobody asks for any more
                continue

    def close(self) -> None:
        """Release the engine's memory, once what is under way has ended. Idempotent."""
        self.discard()
        self._idle = []
        self._closed = True

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        if self._closed:
            raise EngineBuildError(f"The engine {self._label} is closed.")
        found = {name: array.dtype for name, array in inputs.items()}
        if found != self._dtypes:
            raise EngineBuildError(
                f"The engine {self._label} takes {_typed(self._dtypes)}, but was given {_typed(found)}."
            )

    def _enter(self, *, queued: bool) -> None:
        """Import the blob again, the other way, where it is not imported so."""
        if self._queued is queued:
            return
        if self._under_way:
            raise EngineBuildError(f"The engine {self._label} has batches under way; collect them first.")
        # First, so that the two are never in memory together; also what a failure leaves.
        self._idle, self._queued = [], None
        with self._translated():
            compiled = self._opened(queued)
            self._idle = [compiled.create_infer_request() for _ in range(self.depth if queued else 1)]
        self._queued = queued

    def _infer(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        # Started and awaited, not `infer`: that one swallows a failure and leaves the outputs of the run before
        # (OpenVINO 2026.4, when memory runs out).
        (request,) = self._idle
        with self._translated():
            request.start_async(dict(inputs), share_inputs=True)
        return self._results(request)

    def _results(self, request: Any) -> dict[str, NDArray[np.float32]]:  # noqa: ANN401 - OpenVINO ships no types
        with self._translated():
            request.wait()
            # Each a copy: the request's own memory is written over by its next run.
            return {name: request.get_tensor(name).data.astype("float32", copy=True) for name in self._outputs}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except MemoryError as error:
            raise OutOfDeviceMemory(str(error)) from error
        except (OSError, RuntimeError) as error:
            if _OUT_OF_MEMORY.search(str(error)):
                raise OutOfDeviceMemory(_reason(error)) from error
            raise EngineBuildError(f"The engine {self._label} failed: {_reason(error)}") from error


def _library() -> Any:  # noqa: ANN401 - OpenVINO ships no types
    """OpenVINO, imported without its reporter."""
    if "openvino" not in sys.modules:
        # None makes `import openvino_telemetry` fail; OpenVINO then takes its own stub.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is documented for this
    import openvino  # noqa: PLC0415 - only after the line above

    return openvino


def _release(version: str) -> str:
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    if found is None:
        raise EngineBuildError(f"OpenVINO calls its version {version!r}, which does not begin with a number.")
    return found.group()


def _hint(core: Any, request: CompileRequest) -> str:  # noqa: ANN401 - OpenVINO ships no types
    """The precision hint of a request, if this CPU can do it."""
    hint, capability = _HINTS[request.precision]
    offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if capability not in offered:
        raise EngineBuildError(
            f"{request.onnx_path}: this CPU does not compute in {request.precision} (OpenVINO offers "
            f"{', '.join(sorted(offered))}). Set `precision` to fp32, or build on a CPU that has it."
        )
    return hint


def _compare_precision(compiled: Any, hint: str, label: str) -> None:  # noqa: ANN401 - OpenVINO ships no types
    actual = compiled.get_property("INFERENCE_PRECISION_HINT")
    if actual != getattr(_library().Type, hint):
        raise EngineBuildError(
            f"{label}: OpenVINO was asked for {hint} but runs {actual.get_type_name()}. Set `precision` to what this "
            "CPU computes in."
        )


def _compare_inputs(found: list[str], asked: Mapping[str, object] | list[str], label: str) -> None:
    if sorted(found) != sorted(asked):
        raise EngineBuildError(f"{label} takes the inputs {sorted(found)}, but {sorted(asked)} were asked for.")


def _reason(error: BaseException) -> str:
    """OpenVINO's message without the lines that name its own source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(said or [line for line in lines if line] or [type(error).__name__])


def _typed(dtypes: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {dtype}" for name, dtype in sorted(dtypes.items())) or "nothing"


def _failure(request: CompileRequest) -> str:
    return f"OpenVINO cannot compile {request.onnx_path} for {request.precision}"


def compile_here(order: Mapping[str, Any], target: Path) -> None:
    """What `OpenVinoRuntime.start` orders, in the process made for it. Raises EngineBuildError."""
    request = request_of(order)
    try:
        blob = _compiled(request).export_model()
        write_engine(target, blob if isinstance(blob, bytes) else blob.getvalue())
    except (EngineBuildError, OSError, RuntimeError, MemoryError) as error:
        raise EngineBuildError(f"{_failure(request)}: {_reason(error)}") from error


def _compiled(request: CompileRequest) -> Any:  # noqa: ANN401 - OpenVINO ships no types
    # A blob notes how many threads its model prefers, counted over the cores this process may use: here it is one, so that
    # the bytes do not follow the machine's load rules; a process that imports it uses all the cores it has.
    core = _library().Core()
    onnx = str(request.onnx_path)
    try:
        model = core.read_model(onnx)
    except RuntimeError as error:
        raise EngineBuildError(_reason(error) + _unconverted(onnx)) from error
    _compare_inputs([port.get_any_name() for port in model.inputs], request.inputs, onnx)
    if request.precision == "int8" and not any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
        # Compiled all the same, it would compute in fp32.
        raise EngineBuildError("it holds no Q/DQ nodes. Quantise it, or set `precision` to fp32.")
    hint, _ = _HINTS[request.precision]
    properties = {**_FIXED, "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": _EXPORT_THREADS}
    compiled = core.compile_model(model, "CPU", properties)
    _compare_precision(compiled, hint, onnx)
    return compiled


def _unconverted(onnx: str) -> str:
    """The operators OpenVINO has no conversion for, with their nodes; empty where that is not what failed."""
    _library()
    from openvino.frontend import FrontEndManager  # noqa: PLC0415 - only after `_library`

    # Each held by a name: freed in another order, OpenVINO's objects take the process with them.
    manager = FrontEndManager()
    frontend = manager.load_by_framework("onnx")
    try:
        loaded = frontend.load(onnx)
        model = frontend.convert_partially(loaded)
        left = [op for op in model.get_ops() if "Framework" in op.get_type_name()]
    except RuntimeError:  # no file of ONNX at all: the first failure says so
        return ""
    nodes: dict[str, list[str]] = {}
    for op in left:
        known = op.get_attributes()
        kind = ".".join(part for part in (known.get("ONNX_META_domain"), known.get("ONNX_META_type")) if part)
        nodes.setdefault(kind or op.get_type_name(), []).append(op.get_friendly_name())
    listed = "; ".join(f"{kind} (node {', '.join(sorted(names)[:3])})" for kind, names in sorted(nodes.items()))
    return (
        f" Not known to OpenVINO: {listed}. Choose another runtime, or export the model without them." if listed else ""
    )
