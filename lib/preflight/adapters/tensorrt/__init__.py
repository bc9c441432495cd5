"""TensorRT 10.3 to 11.x and TensorRT-RTX, for NVIDIA GPUs."""

from __future__ import annotations

from preflight.engine.runtime_choice import InstalledRuntime, RuntimeSetup
from preflight.ports import InferenceRuntime

# What brings the module `tensorrt`: JetPack's package and the one on PyPI, or what the latter stands for.
_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_ON_A_JETSON = (
    "; on a Jetson, make the environment with --system-site-packages, so that JetPack's own TensorRT is found"
)


def installed(setup: RuntimeSetup) -> InstalledRuntime:
    """As `preflight.engine.runtime_choice` describes it. Raises EngineBuildError."""
    from preflight.adapters.tensorrt.library import release  # noqa: PLC0415 - needed only to build

    version = release(setup.version(*_PACKAGES, hint=_ON_A_JETSON))
    sm = None if setup.host is None else setup.host.sm

    def make() -> InferenceRuntime:
        from preflight.adapters.tensorrt.runtime import TENSORRT, TensorRtRuntime  # noqa: PLC0415 - as above

        return TensorRtRuntime(TENSORRT, sm=sm, version=version, timings=setup.timings)

    return InstalledRuntime(version, make)
