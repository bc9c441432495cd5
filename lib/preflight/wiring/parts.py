"""Which adapter stands behind which port, and what a run is handed of the world."""

# ruff: noqa: PLC0415 - heavy libraries are imported by the functions that need them
from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from preflight.engine.compiler import RuntimeChoice
from preflight.errors import EngineBuildError
from preflight.mission.job import Job
from preflight.ports import (
    Clock,
    DescriptorIndexFactory,
    Engine,
    ImageCodec,
    InferenceRuntime,
    OnnxModels,
    PrecisionTools,
)
from preflight.records import (
    BackboneSpec,
    HostCapabilities,
    ModelSummary,
)
from preflight.report.run_log import RunLog
from preflight.signing import (
    PASSPHRASE_VARIABLE,
    Ask,
    OfflineSigner,
    SigningRequest,
    check_signing_mode,
    given_passphrase,
    load_public_key,
    load_signing_key,
    sign_statement,
)
from preflight.stages.descriptors import Progress
from preflight.wiring.verifying import wall_clock

# The SIMD level FAISS is held to, by machine: other levels give other bytes (preflight.adapters.faiss.index enforces it).
_SIMD = {"x86_64": "AVX2", "aarch64": "ARM_NEON"}
# C7: the variable that allows (1, or unset) or forbids (0) a runtime.
_GATES = {"tensorrt": "BUILD_TENSORRT_RUNTIME", "pytorch_fp16": "BUILD_PYTORCH_FP16_RUNTIME"}
# Who may bring the module `tensorrt`: JetPack's package and the one on PyPI, or what the latter stands for.
_TENSORRT = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
# What brings the module `onnxruntime` with its CUDA provider.
_ORT_GPU = "onnxruntime-gpu"


@dataclass(frozen=True, slots=True)
class Options:
    """How a run differs from the usual one."""

    repair: bool = False
    recalibrate: bool = False
    wait: float = 0.0  # seconds for the holder of the lock to end
    progress: Progress | None = None
    ask: Ask | None = None  # for the passphrase of an encrypted key; None where nobody can be asked


@dataclass(frozen=True)
class Surroundings:
    """What a run is handed of the world."""

    clock: Clock
    environment: Mapping[str, str]
    host: HostCapabilities

    @classmethod
    def real(cls) -> Surroundings:
        """This machine, now."""
        from preflight.adapters.host import installed_nvml, probe_host

        return cls(wall_clock, os.environ, probe_host(nvml=installed_nvml()))


# Adapters behind ports


def image_codec() -> ImageCodec:
    """Pillow."""
    from preflight.adapters import images

    return images


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


class _OnnxModels:
    """OnnxModels by the onnx package and ONNX Runtime."""

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
    """The reader of ONNX files."""
    return _OnnxModels()


def precision_tools() -> PrecisionTools:
    """What writes a precision into ONNX files."""
    from preflight.adapters.onnx.precision import OnnxPrecision
    from preflight.adapters.onnxruntime.runtime import OnnxRuntime

    # Its adapter imports ONNX Runtime without its reporter.
    return OnnxPrecision(lambda: OnnxRuntime().version)


def precision_versions() -> tuple[str, str]:
    """What measures ranges, and all that then writes a precision, without importing them. Raises EngineBuildError."""
    measuring = f"onnxruntime {onnxruntime_version()}"
    return measuring, f"{measuring} onnx {installed_version('onnx', 'cpu')}"


def index_factory() -> DescriptorIndexFactory:
    """FAISS."""
    from preflight.adapters.faiss.index import FaissIndexFactory

    return FaissIndexFactory()


def index_identity() -> dict[str, str]:
    """What decides an index's bytes, known without loading FAISS."""
    for name in ("faiss-cpu", "faiss-gpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return {"faiss": version, "simd": _SIMD.get(platform.machine(), "NONE")}
    raise EngineBuildError("FAISS is not installed: run pip install -e '.[cpu]'")


class KeySigner:
    """A key that lies here, held to the signing mode."""

    def __init__(self, job: Job, passphrase: bytes | None, run_log: RunLog, ask: Ask | None = None) -> None:
        self._key = load_signing_key(job.signing_key, passphrase, ask)
        _hold_to_mode(job, self._key.fingerprint, run_log)

    @property
    def fingerprint(self) -> str:
        """As `ports.Signer`."""
        return self._key.fingerprint

    def waiting(self) -> bytes | None:
        """As `ports.Signer`."""
        return None

    def sign(self, statement: bytes) -> bytes:
        """As `ports.Signer`."""
        return sign_statement(statement, self._key)


def signer_of(
    job: Job, request_folder: Path, run_log: RunLog, environment: Mapping[str, str], ask: Ask | None
) -> KeySigner | OfflineSigner:
    """Who signs for a job; request_folder: the folder where statements wait for an offline signature. Raises SigningKeyError."""
    if job.config.manifest.signing == "here":
        return KeySigner(job, given_passphrase(None, environment.get(PASSPHRASE_VARIABLE)), run_log, ask)
    signer = OfflineSigner(load_public_key(job.signing_key), SigningRequest(request_folder))
    _hold_to_mode(job, signer.fingerprint, run_log)
    return signer


def _hold_to_mode(job: Job, fingerprint: str, run_log: RunLog) -> None:
    section = job.config.manifest
    warning = check_signing_mode(section.signing_mode, fingerprint, section.allowed_operator_fingerprints)
    if warning is not None:
        run_log.warn("dev_signing_with_operator_key", warning)
