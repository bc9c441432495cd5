"""The inference runtime (C7) on a CPU with OpenVINO: compiles ONNX files into blobs, and loads blobs as engines.

A blob does not contain its precision. Without a hint, a CPU with bf16 runs a blob that was compiled for fp32 in bf16.
So the hint is set for the compilation and again for the import. Each time, the actual precision is read back and
compared.

A blob is imported in one of two modes, which give identical bits. In the first, all cores work on one batch. In the
second, several batches run at the same time, each on some of the cores. The engine changes to it when a batch is
submitted.

Each compilation has its own process (`compiling`). OpenVINO is imported without its telemetry (`library`).
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

# Batches at the same time. Each one needs memory for its activations, and with large batches more of them are not
# faster.
_STREAMS = 4


class OpenVinoRuntime:
    """The `InferenceRuntime` of OpenVINO's CPU plug-in.

    It supports fp32, bf16 and fp16 if the CPU has them, and int8 for files with Q/DQ nodes.

    threads: the number of threads of an engine. 0 leaves it to OpenVINO, which uses every core that this process may
    use. The number does not change the bytes of a blob.
    """

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads
        self._core: Any = None

    @property
    def name(self) -> str:
        """The name in mission files."""
        return "openvino"

    @property
    def version(self) -> str:
        """OpenVINO's release, such as 2026.4.1, without build number and commit."""
        return release(library().__version__)

    def compile(self, request: CompileRequest, target: Path) -> None:
        """Compile an ONNX file in its own process and write the blob to `target`.

        The same file, version and CPU give the same bytes.

        Raises:
            EngineBuildError: this CPU does not support the precision, OpenVINO cannot compile the graph, its inputs are
                not those of the request, or `target` cannot be written.
        """
        self.start(request, target, slot=0).wait()

    def start(self, request: CompileRequest, target: Path, *, slot: int) -> Compilation:
        """Start a compilation, as `ports.ConcurrentRuntime` describes.

        Each slot has its own core if there are enough.
        """
        with kept_signal_stack():
            checked_hint(self._opened(), request)
        order, failure = request_value(request), compiling.failure(request)
        return CompilingProcess(compiling.__name__, order, target, failure=failure, slot=slot)

    def load(self, engine: Path, request: CompileRequest) -> Engine:
        """Import a blob with the precision of the request.

        Raises:
            EngineBuildError: the file is absent or damaged, another OpenVINO release built it, it is for another CPU,
                or it runs with another precision.
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
