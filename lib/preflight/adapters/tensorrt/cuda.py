"""The part of the CUDA driver API that running an engine needs, with ctypes. No Python package for CUDA is needed.

Names, signatures and numbers are those of cuda.h. If the header maps a name to `_v2`, that function is called. The code
uses the primary context, which TensorRT's own CUDA runtime also uses. An error of the driver raises `CudaError`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

__all__ = ["CudaError", "CudaSession", "Device", "NoDeviceError", "open_device"]

LIBRARY = "libcuda.so.1"

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the stream never waits for the default stream
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_LENGTH = 256

_INT, _UINT, _SIZE, _POINTER = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p
_ADDRESS = ctypes.c_uint64  # CUdeviceptr
# Without signatures, ctypes would pass a 64-bit address as an int and truncate it.
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
    """There is no CUDA device that this process may use. The message gives the reason."""


class CudaError(Exception):
    """The driver returned an error. out_of_memory: the device's memory is full."""

    def __init__(self, call: str, code: int, text: str) -> None:
        self.out_of_memory = code == _OUT_OF_MEMORY
        super().__init__(f"{call}: {text} (CUDA error {code})")


@dataclass(frozen=True, slots=True)
class Device:
    """CUDA's device 0. name: the marketing name. sm: the compute capability without its dot, such as 87."""

    name: str
    sm: str
    driver: _Driver


class _Driver:
    """The library libcuda with declared signatures. Every call is checked."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, _INT

    def call(self, name: str, *arguments: Any) -> None:  # noqa: ANN401 - the signature decides the types
        """Call a function. Raises CudaError."""
        code = getattr(self._library, name)(*arguments)
        if code:
            raise CudaError(name, code, self._text(code))

    def _text(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        return text.value.decode() if text.value else "unknown error"


def open_device(path: str = LIBRARY) -> Device:
    """Initialise the driver and return its device 0.

    A process that did this must not fork and use CUDA in the child. path: the file name of the driver's library.

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
    """The use of device 0: its primary context, one stream, and the buffers of this session.

    Not thread-safe. Close it.
    """

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
        """The handle of the stream."""
        return self._stream.value or 0

    def use(self) -> None:
        """Make the context current for this thread; a context is current for each thread separately.

        Raises CudaError.
        """
        self._driver.call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Allocate device memory, `size` bytes but at least one, aligned to 256 bytes.

        Return its address. Raises CudaError.
        """
        address = _ADDRESS()
        self._driver.call("cuMemAlloc_v2", ctypes.byref(address), max(size, 1))
        self._buffers.add(address.value)
        return address.value

    def free(self, address: int) -> None:
        """Free device memory. Raises CudaError."""
        self._buffers.discard(address)
        self._driver.call("cuMemFree_v2", address)

    def upload(self, address: int, host: int, size: int) -> None:
        """Copy `size` bytes from host memory at `host`, which must stay valid until `synchronize` returns.

        Raises CudaError.
        """
        if size:
            self._driver.call("cuMemcpyHtoDAsync_v2", address, host, size, self._stream)

    def download(self, host: int, address: int, size: int) -> None:
        """Copy `size` bytes to host memory at `host`, which must stay valid until `synchronize` returns.

        Raises CudaError.
        """
        if size:
            self._driver.call("cuMemcpyDtoHAsync_v2", host, address, size, self._stream)

    def synchronize(self) -> None:
        """Wait for the stream. Raises CudaError, also for earlier work on the stream that failed."""
        self._driver.call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Free everything, even if something fails. Then raise the first CudaError, if any. Idempotent."""
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
