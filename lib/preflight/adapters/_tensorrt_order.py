"""What the process that builds a TensorRT engine is told, as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from preflight.adapters._tensorrt_library import TensorRtLibrary
from preflight.ports import CompileRequest

__all__ = ["Order"]


@dataclass(frozen=True, slots=True)
class Order:
    """One engine to build.

    target: an existing file, written over. parent: the process that orders. version: the release the engine's name
    promises, None to take any. timings: the folder of timing caches, None to keep none. cuda: the driver's library.
    """

    library: TensorRtLibrary
    request: CompileRequest
    target: Path
    parent: int
    version: str | None
    timings: Path | None
    cuda: str

    def to_json(self) -> str:
        """The order as the process reads it."""
        which, request = self.library, self.request
        return json.dumps(
            {
                "library": [which.module, which.title, which.builds_without_device, which.keeps_timings],
                "onnx": str(request.onnx_path.resolve()),
                "inputs": {name: list(shape) for name, shape in request.inputs.items()},
                "precision": request.precision,
                "workspace_mb": request.workspace_mb,
                "batch_size": request.batch_size,
                "target": str(self.target.resolve()),
                "parent": self.parent,
                "version": self.version,
                "timings": None if self.timings is None else str(self.timings.resolve()),
                "cuda": self.cuda,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Order:
        """The reverse of `to_json`."""
        value = json.loads(text)
        request = CompileRequest(
            onnx_path=Path(value["onnx"]),
            inputs={name: tuple(shape) for name, shape in value["inputs"].items()},
            precision=value["precision"],
            workspace_mb=value["workspace_mb"],
            batch_size=value["batch_size"],
        )
        return cls(
            TensorRtLibrary(*value["library"]),
            request,
            Path(value["target"]),
            value["parent"],
            value["version"],
            None if value["timings"] is None else Path(value["timings"]),
            value["cuda"],
        )
