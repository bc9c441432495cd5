"""Which runtime compiles and runs engines: by its name in the mission, or not at all."""

# ruff: noqa: PLC0415 - heavy libraries are imported by the functions that need them
from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from preflight.engine.compiler import RuntimeChoice
from preflight.errors import EngineBuildError
from preflight.ports import InferenceRuntime
from preflight.records import HostCapabilities

# C7: the variable that allows (1, or unset) or forbids (0) a runtime.
_GATES = {"tensorrt": "BUILD_TENSORRT_RUNTIME", "pytorch_fp16": "BUILD_PYTORCH_FP16_RUNTIME"}
# Who may bring the module `tensorrt`: JetPack's package and the one on PyPI, or what the latter stands for.
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
# What brings the module `onnxruntime` with its CUDA provider.
_ORT_GPU = "onnxruntime-gpu"


def runtime_choice(
    name: str,
    host: HostCapabilities | None = None,
    environment: Mapping[str, str] | None = None,
    timings: Path | None = None,
    device: str | None = None,
) -> RuntimeChoice:
    """A runtime by its name in the mission; its version is read without importing it.

    host: whose GPU engines are built for; None for a runtime of the CPU. environment: where C7's gates are read; None has
    none. timings: the folder of TensorRT's timing caches; None keeps none. device: of ONNX Runtime, cpu if not given.

    Raises:
        EngineBuildError: it is forbidden, not installed, not part of this version, or needs a GPU and `host` has none.
    """
    _check_gate(name, environment or {})
    if name == "tensorrt":
        return _tensorrt(host, timings)
    if name == "openvino":
        return RuntimeChoice(name, installed_version("openvino", "cpu"), _openvino, aside=True)
    if name == "onnxruntime":
        return _onnxruntime(host, cuda=device == "cuda")
    if name == "pytorch_fp16":
        return _pytorch_fp16(host)
    raise EngineBuildError(f"runtime {name} is unknown; set runtime to openvino, onnxruntime, tensorrt or pytorch_fp16")


def _check_gate(name: str, environment: Mapping[str, str]) -> None:
    gate = _GATES.get(name)
    if gate is None or (value := environment.get(gate, "1")) == "1":
        return
    if value == "0":
        raise EngineBuildError(f"runtime {name} is forbidden here by {gate}=0: set it to 1, or choose another runtime")
    raise EngineBuildError(f"{gate} is {value!r}: set it to 1 to allow the runtime {name}, or to 0 to forbid it")


def _tensorrt(host: HostCapabilities | None, timings: Path | None) -> RuntimeChoice:
    found = [metadata.version(name) for name in _TENSORRT if _is_installed(name)]
    if not found:
        raise EngineBuildError(
            "TensorRT is not installed: run pip install -e '.[gpu,tensorrt]'; on a Jetson, make the environment with "
            "--system-site-packages, so that JetPack's own is found"
        )
    if host is None or host.sm is None:
        raise EngineBuildError(
            "the runtime tensorrt builds for this machine's GPU, and none was found: check the driver with nvidia-smi, "
            "and that nvidia-ml-py is installed (pip install -e '.[gpu,tensorrt]')"
        )
    from preflight.adapters.tensorrt.runtime import TENSORRT, TensorRtRuntime, release

    sm, version = host.sm, release(found[0])
    return RuntimeChoice(
        "tensorrt", version, lambda: TensorRtRuntime(TENSORRT, sm=sm, version=version, timings=timings)
    )


def _pytorch_fp16(host: HostCapabilities | None) -> RuntimeChoice:
    from preflight.adapters.pytorch.runtime import TorchRuntime, release

    version = release(installed_version("torch", "cpu,torch"))
    # As the engine's name says it (preflight.engine.file_names): with a GPU on the GPU, and never on the CPU instead.
    device = "cpu" if host is None or host.sm is None else "cuda"

    return RuntimeChoice("pytorch_fp16", version, lambda: TorchRuntime(device), aside=device == "cpu")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _openvino() -> InferenceRuntime:
    from preflight.adapters.openvino.runtime import OpenVinoRuntime

    return OpenVinoRuntime()


def _onnxruntime(host: HostCapabilities | None, *, cuda: bool) -> RuntimeChoice:
    if cuda and not _is_installed(_ORT_GPU):
        raise EngineBuildError(
            "the runtime onnxruntime with device cuda needs the package onnxruntime-gpu, which replaces onnxruntime: remove that "
            "one, then run pip install -e '.[gpu]'; or set device to cpu"
        )
    if cuda and (host is None or host.sm is None):
        raise EngineBuildError(
            "the runtime onnxruntime is asked for device cuda, and no GPU was found: check the driver with nvidia-smi, and that "
            "nvidia-ml-py is installed (pip install -e '.[gpu]'); or set device to cpu"
        )

    def make() -> InferenceRuntime:
        from preflight.adapters.onnxruntime.runtime import OnnxRuntime

        return OnnxRuntime(threads=os.cpu_count() or 1, cuda=cuda)

    return RuntimeChoice("onnxruntime", onnxruntime_version(), make, cuda, aside=not cuda, one_file=True)


def onnxruntime_version() -> str:
    """ONNX Runtime's, from either of its packages, without importing it. Raises EngineBuildError."""
    # Where both are installed, CUDA's was put over the other.
    return installed_version(_ORT_GPU if _is_installed(_ORT_GPU) else "onnxruntime", "cpu")


def installed_version(distribution: str, extra: str) -> str:
    """A library's version, without importing it. Raises EngineBuildError, which names the extra to install."""
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise EngineBuildError(f"{distribution} is not installed: run pip install -e '.[{extra}]'") from error
    return version
