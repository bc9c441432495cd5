"""The OpenVINO runtime, for CPUs."""

from __future__ import annotations

from preflight.engine.runtime_choice import InstalledRuntime, RuntimeSetup
from preflight.ports import InferenceRuntime


def installed(setup: RuntimeSetup) -> InstalledRuntime:
    """Return the installed OpenVINO, as `preflight.engine.runtime_choice` describes it. Raises EngineBuildError."""
    return InstalledRuntime(setup.version("openvino"), _make)


def _make() -> InferenceRuntime:
    from preflight.adapters.openvino.runtime import OpenVinoRuntime  # noqa: PLC0415 - needed only to build

    return OpenVinoRuntime()
