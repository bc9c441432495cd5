"""As much of the CUDA driver API as running an engine takes, by ctypes: no Python package for CUDA is needed.

Names, signatures and numbers are those of cuda.h; where the header maps a name to `_v2`, that is the one called. The
primary context is used, the one TensorRT's own CUDA runtime uses as well. Errors of the driver are `CudaError`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

__all__ = ["CudaError", "CudaSession", "Device", "NoDeviceError", "open_device"]

LIBRARY = "libcuda.so.1"

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: never waits for the default stream
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_LENGTH = 256

_INT, _UINT, _SIZE, _POINTER = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p
_ADDRESS = ctypes.c_uint64  # CUdeviceptr
# Without these, ctypes would pass a 64-bit address as an int and cut it.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (_UINT,),
    "cuGetErrorString": (_INT, ctypes.POINTER(ctypes.c_char_p)),
    "cuDeviceGetCount": (ctypes.POINTER(_INT),),
    "cuDeviceGet": (ctypes.POINTER(_INT), _INT),
    "cuDeviceGetName": (ctypes.c_char_p, _INT, _INT),
    "cuDeviceGetAttribute": (ctypes.POINTER(_INT), _INT, _INT),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_POINTER), _INT),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxSetCurrent": (_POINTER,),
    "cuStreamCreate": (ctypes.POINTER(_POINTER), _UINT),
    "cuStreamSynchronize": (_POINTER,),
    "cuStreamDestroy_v2": (_POINTER,),
    "cuMemAlloc_v2": (ctypes.POINTER(_ADDRESS), _SIZE),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, _POINTER, _SIZE, _POINTER),
    "cuMemcpyDtoHAsync_v2": (_POINTER, _ADDRESS, _SIZE, _POINTER),
}


class NoDeviceError(Exception):
    """There is no CUDA device this process may use; the message says why."""


class CudaError(Exception):
    """The driver refused a call."""

    def __init__(self, call: str, code: int, text: str) -> None:
        self.out_of_memory = code == _OUT_OF_MEMORY
        super().__init__(f"{call}: {text} (CUDA error {code})")


@dataclass(frozen=True, slots=True)
class Device:
    """CUDA's device 0: the marketing name and the compute capability without its dot, such as 87."""

    name: str
    sm: str
    driver: _Driver


class _Driver:
    """libcuda with its signatures declared; every call is checked."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, _INT

    def call(self, name: str, *arguments: Any) -> None:  # noqa: ANN401 - whatever the signature takes
        """Call one function. Raises CudaError."""
        code = getattr(self._library, name)(*arguments)
        if code:
            raise CudaError(name, code, self._text(code))

    def _text(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        return text.value.decode() if text.value else "unknown error"


def open_device(path: str = LIBRARY) -> Device:
    """Initialise the driver and describe its device 0. A process that did so must not fork and use CUDA in the child.

    Raises:
        NoDeviceError: the driver is not installed, does not start, or sees no device.
    """
    try:
        driver = _Driver(path)
        driver.call("cuInit", 0)
        count = _INT()
        driver.call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise NoDeviceError("the CUDA driver sees no device")
        name = ctypes.create_string_buffer(_NAME_LENGTH)
        driver.call("cuDeviceGetName", name, _NAME_LENGTH, 0)
        return Device(name.value.decode(errors="replace"), _capability(driver), driver)
    except (OSError, AttributeError) as error:
        raise NoDeviceError(f"the CUDA driver's library {path} does not load: {error}") from error
    except CudaError as error:
        raise NoDeviceError(f"the CUDA driver does not start: {error}") from error


def _capability(driver: _Driver) -> str:
    parts = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = _INT()
        driver.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, 0)
        parts.append(str(value.value))
    return "".join(parts)


class CudaSession:
    """Device 0 in use: its primary context, one stream and the buffers allocated here. Not thread-safe; close it."""

    def __init__(self, device: Device) -> None:
        self._driver = device.driver
        self._buffers: set[int] = set()
        context, stream = _POINTER(), _POINTER()
        self._driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self._context = context
        try:
            self.use()
            self._driver.call("cuStreamCreate", ctypes.byref(stream), _STREAM_NON_BLOCKING)
        except CudaError:
            self._driver.call("cuDevicePrimaryCtxRelease_v2", 0)
            raise
        self._stream = stream

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return self._stream.value or 0

    def use(self) -> None:
        """Make the context this thread's own: a context is current for one thread. Raises CudaError."""
        self._driver.call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Device memory of at least one byte, aligned to 256 bytes. Raises CudaError."""
        address = _ADDRESS()
        self._driver.call("cuMemAlloc_v2", ctypes.byref(address), max(size, 1))
        self._buffers.add(address.value)
        return address.value

    def free(self, address: int) -> None:
        """Give device memory back. Raises CudaError."""
        self._buffers.discard(address)
        self._driver.call("cuMemFree_v2", address)

    def upload(self, address: int, host: int, size: int) -> None:
        """Copy from host memory at `host`, which must stay until `synchronize` returned. Raises CudaError."""
        if size:
            self._driver.call("cuMemcpyHtoDAsync_v2", address, host, size, self._stream)

    def download(self, host: int, address: int, size: int) -> None:
        """Copy to host memory at `host`, which must stay until `synchronize` returned. Raises CudaError."""
        if size:
            self._driver.call("cuMemcpyDtoHAsync_v2", host, address, size, self._stream)

    def synchronize(self) -> None:
        """Wait for the stream; failures of what was queued on it surface here. Raises CudaError."""
        self._driver.call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free everything, whatever fails; raises the first CudaError after that. Idempotent."""
        if not self._context:
            return
        calls: list[tuple[str, Any]] = [
            ("cuCtxSetCurrent", self._context),
            *(("cuMemFree_v2", address) for address in self._buffers),
            ("cuStreamDestroy_v2", self._stream),
            ("cuDevicePrimaryCtxRelease_v2", 0),
        ]
        self._context = _POINTER()
        self._buffers.clear()
        failures = []
        for name, argument in calls:
            try:
                self._driver.call(name, argument)
            except CudaError as error:
                failures.append(error)
        if failures:
            raise failures[0]
