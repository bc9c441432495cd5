"""A loaded TensorRT engine: device buffers, one stream, one execution context.

This module gives the context its scratch memory, as much as the shapes of each run need. So a smaller batch needs less
memory. If memory runs out, the run signals it; the engine still loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from preflight.adapters.tensorrt.cuda import CudaError, CudaSession
from preflight.adapters.tensorrt.library import Words
from preflight.adapters.tensorrt.network import engine_label
from preflight.engine.static_batch import run_in_slices
from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest, Engine, OutOfDeviceMemory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Interface", "TensorRtEngine", "check_engine"]

# TensorRT's type -> numpy's type. Numpy has no BF16, so it is supported only for outputs.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
_SCRATCH = ""  # no tensor has an empty name


class Interface:
    """The inputs and outputs of a deserialised engine. most: input name -> the largest shape of its profile."""

    def __init__(self, library: Any, engine: Any) -> None:  # noqa: ANN401 - TensorRT ships no types
        self.name: str = engine.name
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.most: dict[str, tuple[int, ...]] = {}
        self.outputs: list[str] = []
        self.types: dict[str, str] = {}
        self.on_host: list[str] = []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            self.types[name] = engine.get_tensor_dtype(name).name
            if engine.get_tensor_location(name) != library.TensorLocation.DEVICE:
                self.on_host.append(name)
            if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT:
                shape = self.inputs[name] = tuple(engine.get_tensor_shape(name))
                self.most[name] = tuple(engine.get_tensor_profile_shape(name, 0)[2]) if -1 in shape else shape
            else:
                self.outputs.append(name)

    @property
    def slice(self) -> int | None:
        """The batch size if the graph has a fixed one, else None."""
        first = {shape[0] if shape else -1 for shape in self.inputs.values()}
        return first.pop() if len(first) == 1 and -1 not in first else None


def check_engine(interface: Interface, request: CompileRequest) -> None:
    """Compare an engine with the request.

    Raises:
        EngineBuildError: the engine has another precision, other inputs, a smaller batch, or tensors that this adapter
            does not support.
    """
    if interface.name != engine_label(request.precision):
        raise EngineBuildError(f"its name is {interface.name!r}, not {engine_label(request.precision)!r}")
    if sorted(interface.inputs) != sorted(request.inputs):
        raise EngineBuildError(f"it has the inputs {sorted(interface.inputs)}, not {sorted(request.inputs)}")
    for name, most in interface.most.items():
        asked = request.inputs[name]
        batch = request.batch_size if interface.inputs[name][:1] == (-1,) else most[0] if most else 0
        if most[1:] != tuple(asked[1:]) or len(most) != len(asked) or (most and most[0] < batch):
            raise EngineBuildError(f"its input {name} allows shapes up to {list(most)}, not {[batch, *asked[1:]]}")
    for name, kind in interface.types.items():
        if kind not in _DTYPES and not (kind == "BF16" and name in interface.outputs):
            raise EngineBuildError(f"its tensor {name} is {kind}, which is not supported; cast it in the ONNX file")
    if interface.on_host:
        raise EngineBuildError(f"its tensors {interface.on_host} are shapes in host memory; export them as constants")


class TensorRtEngine:
    """An engine with one context."""

    def __init__(
        self,
        session: CudaSession,
        interface: Interface,
        context: Any,  # noqa: ANN401 - TensorRT ships no types
        owners: list[Any],
        words: Words,
        label: str,
    ) -> None:
        """Take over the objects of a loaded engine.

        Args:
            session: the use of the device; `close` closes it.
            interface: the engine's inputs and outputs.
            context: TensorRT's execution context.
            owners: the objects that the context needs. They are released after it, the last one first.
            words: the messages of the library.
            label: the engine's name in messages.
        """
        self._session, self._interface, self._context = session, interface, context
        self._owners, self._words, self._label = owners, words, label
        self._buffers: dict[str, tuple[int, int]] = {}

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Run one forward pass. The returned arrays belong to the caller.

        Raises:
            OutOfDeviceMemory: the batch did not fit into memory; a smaller one may.
            EngineBuildError: the engine is closed, an input has another name, type or shape, or TensorRT or CUDA
                failed.
        """
        if self._context is None:
            raise EngineBuildError(f"The engine {self._label} is closed.")
        wanted = {name: _DTYPES[self._interface.types[name]] for name in self._interface.inputs}
        found = {name: str(array.dtype) for name, array in inputs.items()}
        if found != wanted:
            raise EngineBuildError(f"The engine {self._label} takes {wanted}, but was given {found}.")
        size = self._interface.slice
        return self._infer(inputs) if size is None else run_in_slices(self._infer, inputs, size)

    def close(self) -> None:
        """Release the device memory. Idempotent. Raises EngineBuildError if the driver returns an error."""
        if self._context is None:
            return
        self._context = None
        while self._owners:
            self._owners.pop()
        try:
            self._session.close()
        except CudaError as error:
            raise EngineBuildError(f"The engine {self._label} cannot release its device: {error}.") from error

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _infer(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        self._words.clear()
        try:
            self._session.use()
            return self._execute(inputs)
        except CudaError as error:
            if error.out_of_memory:
                self._drop()
                raise OutOfDeviceMemory(str(error)) from error
            raise EngineBuildError(f"The engine {self._label} failed: {error}.") from error

    def _execute(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        import numpy as np  # noqa: PLC0415 - slow to import, and needed only to run

        session, context = self._session, self._context
        fed = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in fed.items():
            self._require(context.set_input_shape(name, array.shape), f"refuses {name} of shape {list(array.shape)}")
        made = {name: np.empty(self._output_shape(name), self._output_dtype(name)) for name in self._interface.outputs}
        scratch = context.update_device_memory_size_for_shapes()
        context.set_device_memory(self._reserve(_SCRATCH, scratch), max(scratch, 1))
        for name, array in (*fed.items(), *made.items()):
            address = self._reserve(name, array.nbytes)
            self._require(context.set_tensor_address(name, address), f"refuses memory for {name}")
        for name, array in fed.items():
            session.upload(self._buffers[name][0], array.ctypes.data, array.nbytes)
        self._require(context.execute_async_v3(session.stream), "failed")
        for name, array in made.items():
            session.download(array.ctypes.data, self._buffers[name][0], array.nbytes)
        session.synchronize()
        return {name: self._as_float(name, array) for name, array in made.items()}

    def _output_shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise EngineBuildError(
                f"The engine {self._label} does not know the shape of its output {name} before it runs ({list(shape)}). "
                "Export the model with outputs of fixed length and a mask."
            )
        return shape

    def _output_dtype(self, name: str) -> str:
        return "uint16" if self._interface.types[name] == "BF16" else _DTYPES[self._interface.types[name]]

    def _as_float(self, name: str, array: NDArray[np.generic]) -> NDArray[np.float32]:
        if self._interface.types[name] == "BF16":  # the upper half of a float32
            return (array.astype("uint32") << 16).view("float32")
        return array.astype("float32", copy=False)

    def _reserve(self, name: str, size: int) -> int:
        """Return device memory for one tensor. It is kept from run to run, and replaced if it is too small."""
        address, held = self._buffers.get(name, (0, 0))
        if held >= size and address:
            return address
        if address:
            del self._buffers[name]
            self._session.free(address)
        address = self._session.allocate(size)
        self._buffers[name] = address, size
        return address

    def _drop(self) -> None:
        """Free all buffers, so that a smaller batch has room. Raises EngineBuildError."""
        try:
            # First wait: the failed run may still use the buffers.
            self._session.synchronize()
            while self._buffers:
                _, (address, _) = self._buffers.popitem()
                self._session.free(address)
        except CudaError as error:
            raise EngineBuildError(f"The engine {self._label} failed after memory ran out: {error}.") from error

    def _require(self, answer: bool, verb: str) -> None:
        """Raise an error with TensorRT's messages if TensorRT answered False."""
        if answer:
            return
        if self._words.out_of_memory:
            self._drop()
            raise OutOfDeviceMemory(str(self._words))
        raise EngineBuildError(f"The engine {self._label} {verb}: {self._words}.")
