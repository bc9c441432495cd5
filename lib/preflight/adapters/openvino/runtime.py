"""C7 on a CPU by OpenVINO: an ONNX file becomes a compiled blob, and a blob an engine.

A blob does not carry its precision: without a hint, a CPU with bf16 runs a blob compiled for fp32 in bf16. The hint is
therefore set when compiling and again when importing, read back both times, and compared.

One blob is imported in two ways, and gives the same bits in both: for one batch at a time, every core on it; and, once the
first batch is submitted, for throughput: several batches at a time, each on some of the cores.

Compiling happens in a process of its own (`_openvino_compile`); OpenVINO is imported without its reporter
(`_openvino_library`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from preflight.adapters.openvino import compiling
from preflight.adapters.openvino.engine import OpenVinoEngine
from preflight.adapters.openvino.library import (
    FIXED,
    checked_hint,
    compare_inputs,
    compare_precision,
    library,
    reason,
    release,
)
from preflight.adapters.openvino.signal_stack import kept_signal_stack
from preflight.engine.compile_process import CompilingProcess, request_value
from preflight.errors import EngineBuildError
from preflight.ports import Compilation, CompileRequest, Engine

__all__ = ["OpenVinoRuntime"]

# Batches at a time: each holds the activations of a whole batch, and more than a few win nothing where a batch is large.
_STREAMS = 4


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
        return release(library().__version__)

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
            checked_hint(self._opened(), request)
        order, failure = request_value(request), compiling.failure(request)
        return CompilingProcess(compiling.__name__, order, target, failure=failure, slot=slot)

    def load(self, engine: Path, request: CompileRequest) -> Engine:
        """Import a blob at the request's precision.

        Raises:
            EngineBuildError: the file is absent or damaged, was built by another OpenVINO or for another CPU, or runs
                at another precision than asked.
        """
        core = self._opened()
        with kept_signal_stack():
            hint = checked_hint(core, request)
        properties: dict[str, Any] = {**FIXED, "INFERENCE_PRECISION_HINT": hint}
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
                compare_precision(compiled, hint, str(engine))
                compare_inputs([port.get_any_name() for port in compiled.inputs], request.inputs, str(engine))
            return compiled

        try:
            return OpenVinoEngine(opened, streams, engine.name)
        except (OSError, RuntimeError, MemoryError) as error:
            raise EngineBuildError(
                f"OpenVINO {self.version} cannot load the engine {engine}: {reason(error)} Remove the file and build "
                "it again on this machine."
            ) from error

    def _opened(self) -> Any:  # noqa: ANN401 - OpenVINO ships no types
        if self._core is None:
            self._core = library().Core()
        return self._core
