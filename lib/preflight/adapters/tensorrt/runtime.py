"""The inference runtime (C7) on a GPU with TensorRT 10.3 to 11.x or TensorRT-RTX: compiles ONNX files for this GPU.

Networks are strongly typed, so the ONNX file decides the precision. For fp16 the file must be cast before, and for int8
it must have Q/DQ nodes. The adapter checks this and writes the precision into the engine. `load` reads it back. The
bytes of an engine are not reproducible.

A TensorRT runtime crashes if there is no GPU. So the adapter refuses what needs a GPU before any native code runs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from preflight.adapters.tensorrt import build as build_process
from preflight.adapters.tensorrt.build_request import Order
from preflight.adapters.tensorrt.cuda import LIBRARY, CudaError, CudaSession, Device, NoDeviceError, open_device
from preflight.adapters.tensorrt.engine import Interface, TensorRtEngine, check_engine
from preflight.adapters.tensorrt.library import TENSORRT, TENSORRT_RTX, TensorRtLibrary, process_logger, release
from preflight.engine.compile_process import CompilingProcess
from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest, Engine

__all__ = ["TENSORRT", "TENSORRT_RTX", "TensorRtLibrary", "TensorRtRuntime", "release"]

log = logging.getLogger("c10_provisioning.engine")


class TensorRtRuntime:
    """The `InferenceRuntime` of TensorRT on CUDA's device 0.

    library: TENSORRT, or TENSORRT_RTX, which builds engines without a GPU. sm, version: the compute capability and the
    release in engine file names, such as "87" and "10.3.0"; another GPU or library is refused. timings: the folder of
    the timing caches, with one file for each GPU model and TensorRT version; None keeps none. cuda: the file name of
    the CUDA driver's library.
    """

    def __init__(
        self,
        library: TensorRtLibrary = TENSORRT,
        *,
        sm: str | None = None,
        version: str | None = None,
        timings: Path | None = None,
        cuda: str = LIBRARY,
    ) -> None:
        self._library, self._sm, self._promised = library, sm, version
        self._timings, self._cuda = timings, cuda

    @property
    def name(self) -> str:
        """The name in mission files."""
        return "tensorrt"

    @property
    def version(self) -> str:
        """The library's release, such as 10.3.0. Raises EngineBuildError if it is not installed."""
        return release(self._library.imported().__version__)

    def compile(self, request: CompileRequest, target: Path) -> None:
        """Build the engine of an ONNX file in its own process and write it to `target`.

        Raises:
            EngineBuildError: the library needs a GPU and there is none, or the GPU is another one than `sm`. Or the
                ONNX file has another precision, unsupported nodes or other inputs. Or TensorRT built nothing, the
                process crashed or was killed, or `target` cannot be written.
        """
        if not self._library.builds_without_device:
            self._device(f"cannot build {request.onnx_path}")
        order = Order(self._library, request, self._promised, self._timings, self._cuda)
        # The process runs on every core, because TensorRT measures tactics to choose them.
        building = CompilingProcess(build_process.__name__, order.value(), target, failure=order.failure())
        building.wait()
        if building.said:
            log.debug(f"{self._library.title} on {request.onnx_path.name}: {building.said}")

    def load(self, engine: Path, request: CompileRequest) -> Engine:
        """Deserialise an engine and check its precision.

        Raises:
            EngineBuildError: there is no GPU, or it is another one than `sm`. Or the file is absent, damaged, or of
                another TensorRT version or GPU. Or the engine does not fit the request.
        """
        verb = f"cannot load the engine {engine}"
        try:
            plan = engine.read_bytes()
        except OSError as error:
            raise EngineBuildError(f"{self._library.title} {verb}: {error.strerror}. Build it again.") from error
        if not plan:
            raise EngineBuildError(f"{self._library.title} {verb}: it is empty. Build it again.")
        device = self._device(verb)
        try:
            session = CudaSession(device)
        except CudaError as error:
            raise EngineBuildError(f"{self._library.title} {verb}: {error}.") from error
        try:
            return self._opened(session, plan, request, engine.name)
        except EngineBuildError as error:
            session.close()
            raise EngineBuildError(f"{self._library.title} {verb}: {error}. Build it again on this machine.") from error

    def _opened(self, session: CudaSession, plan: bytes, request: CompileRequest, label: str) -> Engine:
        library = self._library.imported(self._promised)
        # There is no error recorder: objects with one may crash when they are destroyed. The logger gets the errors as
        # well.
        logger, words = process_logger(self._library)
        words.clear()
        library.init_libnvinfer_plugins(logger, "")
        try:
            runtime = library.Runtime(logger)
        except TypeError as error:  # the bindings raise it if a native factory returns nothing
            raise EngineBuildError(f"the library does not start: {words}") from error
        deserialised = _given(runtime.deserialize_cuda_engine(plan), words)
        interface = Interface(library, deserialised)
        check_engine(interface, request)
        strategy = library.ExecutionContextAllocationStrategy.USER_MANAGED
        context = _given(deserialised.create_execution_context(strategy), words)
        return TensorRtEngine(session, interface, context, [runtime, deserialised], words, label)

    def _device(self, verb: str) -> Device:
        try:
            device = open_device(self._cuda)
        except NoDeviceError as error:
            raise EngineBuildError(
                f"{self._library.title} {verb}: there is no GPU here ({error}). Use the machine whose GPU will run "
                "the engine, or set `runtime` to openvino."
            ) from error
        if self._sm not in (None, device.sm):
            raise EngineBuildError(
                f"{self._library.title} {verb}: engines are named for sm {self._sm}, but CUDA's device 0 is "
                f"{device.name}, sm {device.sm}. Choose one GPU with CUDA_VISIBLE_DEVICES, and set "
                "CUDA_DEVICE_ORDER=PCI_BUS_ID."
            )
        return device


def _given(value: Any, words: object) -> Any:  # noqa: ANN401 - TensorRT ships no types
    """Return the object that TensorRT created. Raises EngineBuildError if it is None."""
    if value is None:
        raise EngineBuildError(str(words))
    return value
