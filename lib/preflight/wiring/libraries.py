"""The libraries of a build, except the runtime: images, ONNX files and the index."""

# ruff: noqa: PLC0415 - heavy libraries are imported by the functions that need them
from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from preflight.engine.runtime_choice import installed_version
from preflight.errors import EngineBuildError
from preflight.ports import DescriptorIndexFactory, Engine, ImageCodec, OnnxModels, PrecisionTools
from preflight.records import BackboneSpec, ModelSummary

_INSTALL = "pip install -e '.[cpu]'"
# The SIMD level that FAISS must use, by machine. Other levels give other bytes; adapters/faiss enforces it.
_SIMD = {"x86_64": "AVX2", "aarch64": "ARM_NEON"}


def image_codec() -> ImageCodec:
    """Returns the image codec, by Pillow."""
    from preflight.adapters import images

    return images


class _OnnxModels:
    """`ports.OnnxModels` by the onnx package and ONNX Runtime."""

    def inspect(self, spec: BackboneSpec) -> ModelSummary:
        from preflight.adapters.onnx.models import inspect

        model = inspect(spec.onnx_path)
        model.check_against(spec)
        return ModelSummary(model.outputs, model.external_data, model.opset, model.types)

    def join(self, onnx: Path, target: Path) -> None:
        from preflight.adapters.onnx.models import join

        join(onnx, target)

    def reference(self, onnx: Path) -> Engine:
        from preflight.adapters.onnxruntime.runtime import OnnxRuntime

        return OnnxRuntime(threads=os.cpu_count() or 1).reference(onnx)


def onnx_models() -> OnnxModels:
    """Returns the reader of ONNX files."""
    return _OnnxModels()


def precision_tools() -> PrecisionTools:
    """Returns the tools that write a precision into ONNX files."""
    from preflight.adapters.onnx.precision import OnnxPrecision
    from preflight.adapters.onnxruntime.runtime import OnnxRuntime

    # This adapter imports ONNX Runtime without its telemetry.
    return OnnxPrecision(lambda: OnnxRuntime().version)


def precision_versions() -> tuple[str, str]:
    """Returns the version of what measures ranges, and of all tools that write. Imports none of them. Raises EngineBuildError."""
    measuring = f"onnxruntime {onnxruntime_version()}"
    return measuring, f"{measuring} onnx {installed_version('onnx', _INSTALL, 'onnx')}"


def onnxruntime_version() -> str:
    """Returns the version of ONNX Runtime, which computes the reference, without importing it. Raises EngineBuildError."""
    from preflight.adapters.onnxruntime import PACKAGES

    return installed_version("onnxruntime", _INSTALL, *PACKAGES)


def index_factory() -> DescriptorIndexFactory:
    """Returns the index factory, by FAISS."""
    from preflight.adapters.faiss.index import FaissIndexFactory

    return FaissIndexFactory()


def index_identity() -> dict[str, str]:
    """Returns what decides the bytes of an index, without importing FAISS. Raises EngineBuildError."""
    for name in ("faiss-cpu", "faiss-gpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return {"faiss": version, "simd": _SIMD.get(platform.machine(), "NONE")}
    raise EngineBuildError("FAISS is not installed: run pip install -e '.[cpu]'")
