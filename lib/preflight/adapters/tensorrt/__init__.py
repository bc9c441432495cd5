"""TensorRT 10.3 to 11.x and TensorRT-RTX, for NVIDIA GPUs."""

from __future__ import annotations

from preflight.engine.runtime_choice import InstalledRuntime, RuntimeSetup
from preflight.ports import InferenceRuntime

# The packages that contain the module `tensorrt`: JetPack's, the one on PyPI, and those that PyPI's one installs.
_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_ON_A_JETSON = (
    "; on a Jetson, make the environment with --system-site-packages, so that JetPack's own TensorRT is found"
)


def installed(setup: RuntimeSetup) -> InstalledRuntime:
    """Return the installed TensorRT, as `preflight.engine.runtime_choice` describes it. Raises EngineBuildError."""
    from preflight.adapters.tensorrt.library import release  # noqa: PLC0415 - needed only to build

    version = release(setup.version(*_PACKAGES, hint=_ON_A_JETSON))
    sm = None if setup.host is None else setup.host.sm

    def make() -> InferenceRuntime:
        from preflight.adapters.tensorrt.runtime import TENSORRT, TensorRtRuntime  # noqa: PLC0415 - as above

        return TensorRtRuntime(TENSORRT, sm=sm, version=version, timings=setup.timings)

    return InstalledRuntime(version, make)
