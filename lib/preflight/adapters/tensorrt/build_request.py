"""The order for the process that builds a TensorRT engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preflight.adapters.tensorrt.library import TensorRtLibrary
from preflight.engine.compile_process import request_of, request_value
from preflight.ports import CompileRequest

__all__ = ["Order"]


@dataclass(frozen=True, slots=True)
class Order:
    """An order to build one engine.

    Attributes:
        library: the library that builds it.
        request: the request.
        version: the release in the engine's file name; None accepts any release.
        timings: the folder of the timing caches; None keeps no timings.
        cuda: the file name of the CUDA driver's library.
    """

    library: TensorRtLibrary
    request: CompileRequest
    version: str | None
    timings: Path | None
    cuda: str

    def value(self) -> dict[str, Any]:
        """Return the order as JSON values."""
        which = self.library
        return {
            **request_value(self.request),
            "library": [which.module, which.title, which.builds_without_device, which.keeps_timings],
            "version": self.version,
            "timings": None if self.timings is None else str(self.timings.resolve()),
            "cuda": self.cuda,
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Order:
        """Read an order from the JSON values that `value` returned."""
        timings = value["timings"]
        return cls(
            TensorRtLibrary(*value["library"]),
            request_of(value),
            value["version"],
            None if timings is None else Path(timings),
            value["cuda"],
        )

    def failure(self) -> str:
        """Return the beginning of each error message about this order."""
        return f"{self.library.title} cannot build {self.request.onnx_path} for {self.request.precision}"
