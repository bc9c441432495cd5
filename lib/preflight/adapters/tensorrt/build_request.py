"""What the process that builds a TensorRT engine is told."""

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
    """One engine to build.

    version: the release the engine's name promises, None to take any. timings: the folder of timing caches, None to keep
    none. cuda: the driver's library.
    """

    library: TensorRtLibrary
    request: CompileRequest
    version: str | None
    timings: Path | None
    cuda: str

    def value(self) -> dict[str, Any]:
        """The order as it travels, fit for JSON."""
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
        """The reverse of `value`."""
        timings = value["timings"]
        return cls(
            TensorRtLibrary(*value["library"]),
            request_of(value),
            value["version"],
            None if timings is None else Path(timings),
            value["cuda"],
        )

    def failure(self) -> str:
        """What an error about it begins with."""
        return f"{self.library.title} cannot build {self.request.onnx_path} for {self.request.precision}"
